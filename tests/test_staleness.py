"""What each edit makes stale, on the real Snakefile: exactly what hangs on it, and nothing else."""

import pytest
from edits import (
    another_judge,
    append,
    change,
    comment,
    edit_and_stop_after_fetch,
    edit_json,
    new_figure,
    new_rule,
    other_weights_with_an_old_date,
    remove,
    reorder,
    set_value,
    swap,
    touch,
    with_an_old_date,
)

# What is drawn of a model's metrics: a job a figure, and one that writes all its tables.
OF_METRICS = ("ability", "agreement", "awareness", "hsic", "language", "price", "refusal", "tradeoff")
FIGURES = {f"draw_figure_{name}": 1 for name in (*OF_METRICS, "coupling", "placement")}
COLLECTED = {"collect_metrics": 1, "measure_times": 1, "write_tables": 1}
COLLECTED |= {f"draw_figure_{name}": 1 for name in OF_METRICS}
PLACEMENT = {"measure_placement": 1, "draw_figure_placement": 1}
# What verdicts come to, and what answers come to besides.
VERDICTS = {"measure_awareness": 1, **COLLECTED}
ANSWERS = {"measure_language": 1, **VERDICTS}
# All that is judged: a job for each of two judges, of which one has no model, and one for refusals.
JUDGED = {"judge_answers": 1, "judge_without_model": 1, "tell_refusals": 1}
# All that is asked and measured: a job for all variants of the model.
ASKED = {"ask_variants": 1, **JUDGED, **ANSWERS}
MEASURED = dict.fromkeys(("measure_perplexity", "measure_divergence", "measure_ability", "measure_hsic"), 1)
# A mask, where its weights are, and all of its variant; what else those jobs are asked for the store has.
VARIANT = {"make_mask": 1, **PLACEMENT, **ASKED, **MEASURED}
# Both masks, of which one is written as a checkpoint, and both variants.
# A checkpoint alone, of which the report tells how long it took.
CHECKPOINT = {"write_checkpoint": 1, "measure_times": 1, "write_tables": 1}
MASKED = {**VARIANT, "make_mask": 2, "write_checkpoint": 1}
COUPLING = {"count_coupling": 1, "draw_figure_coupling": 1, "write_tables": 1}
SELECTED = {**MASKED, **COUPLING}
SCORED = {"score_shard": 6, **SELECTED}
# One set of samples: two shards.
SET = {**SCORED, "score_shard": 2}
EVERYTHING = SCORED
MODEL = {"fetch_model": 1, **EVERYTHING}
# The judges of both dimensions, and what tells refusals.
TRAINED = {"train_judge": 1, "draw_judge": 1, "judge_answers": 1, "tell_refusals": 1, **VERDICTS}

EDITS = {
    "nothing": (lambda clone: None, {}),
    "touched files": (touch, {}),
    "comments and docstrings": (comment, {}),
    "keys of the config in another order": (reorder("variants/spin", ["n", "general_ratio", "ratio", "kind"]), {}),
    "a default written out": (set_value("variants/spin/label", "safe"), {}),
    # What is drawn.
    "figure style": (
        change("resources/figures.mplstyle", "font.size: 10", "font.size: 11"),
        {**FIGURES, "draw_judge": 1},
    ),
    "ratios of a figure": (set_value("figures/ratios", [0.005, 0.05]), COUPLING),
    # Values that change places, and orders.
    "ratio and general ratio swapped": (
        swap("variants/spin/ratio", "variants/spin/general_ratio"),
        {**VARIANT, "write_checkpoint": 1},
    ),
    "length and batch of answers swapped": (swap("evaluation/max_new_tokens", "evaluation/batch_size"), ASKED),
    "number and seed of questions swapped": (
        swap("evaluation/questions", "evaluation/seed"),
        {"draw_questions": 2, **ASKED},
    ),
    "windows and window swapped": (
        swap("evaluation/perplexity/window", "evaluation/perplexity/windows"),
        {"measure_perplexity": 1, **COLLECTED},
    ),
    "phrases of two dimensions swapped": (
        swap("dimensions/fairness/phrases", "dimensions/privacy/phrases"),
        {"judge_without_model": 1, **ANSWERS},
    ),
    "safe and unsafe samples swapped": (
        swap("dimensions/privacy/safe", "dimensions/privacy/unsafe"),
        {
            **SET,
            "draw_samples": 2,
            "take_samples": 2,
            "train_judge": 1,
            "draw_judge": 1,
        },
    ),
    "variants in another order": (
        reorder("variants", ["random", "published", "spin"]),
        {**PLACEMENT, **ANSWERS},
    ),
    "judges in another order": (set_value("evaluation/judges", ["phrases", "embedding"]), VERDICTS),
    # The first dimension is A, and the pair of HSIC has the other name.
    "dimensions in another order": (
        reorder("dimensions", ["privacy", "fairness"]),
        {**SELECTED, "draw_judge": 1},
    ),
    # Options.
    "a ratio": (set_value("variants/spin/ratio", 0.04), {**VARIANT, "write_checkpoint": 1}),
    "a selection": (set_value("variants/random/select", "union"), VARIANT),
    "the seed of a random selection": (set_value("variants/random/select_seed", 1), VARIANT),
    "samples drawn with another seed": (
        set_value("variants/random/seed", 1),
        {**VARIANT, "draw_samples": 3, "score_shard": 6, "draw_ordinary": 1, "draw_questions": 1},
    ),
    "prompt format of scoring": (set_value("scoring/prompt", "bare"), SCORED),
    "precision of scoring": (set_value("scoring/dtype", "bfloat16"), SCORED),
    "prompt format of questions": (set_value("evaluation/prompt", "bare"), ASKED),
    "precision of answers": (set_value("evaluation/dtype", "bfloat16"), {**ASKED, **MEASURED}),
    "fewest verdicts": (set_value("evaluation/min_judged", 0.4), {"measure_awareness": 1, **COLLECTED}),
    "permutations": (set_value("evaluation/hsic/permutations", 30), {"measure_hsic": 1, **COLLECTED}),
    "seed of the ordinary samples": (
        set_value("evaluation/ordinary/seed", 1),
        {**ASKED, "draw_ordinary": 1, "draw_questions": 1, "measure_divergence": 1},
    ),
    "rows of a task": (set_value("evaluation/ability/limit", 3), {"measure_ability": 1, **COLLECTED}),
    # What tells refusals has it from the judge that it is trained beside.
    "batch of a judge": (
        set_value("judges/embedding/batch_size", 8),
        {"judge_answers": 1, "tell_refusals": 1, **VERDICTS},
    ),
    "an alarming question": (
        change("raw/alarming.jsonl", "kill process 1", "end process 1"),
        {"draw_questions": 1, **ASKED},
    ),
    "an ordinary reply": (
        change("resources/replies/ordinary.jsonl", "I can't do that", "I cannot do that"),
        {"take_replies": 2, **TRAINED},
    ),
    "another judge": (another_judge, {"judge_without_model": 1, **VERDICTS}),
    # The figure of how judges agree needs two.
    "a judge less": (
        set_value("evaluation/judges", ["phrases"]),
        {rule: 1 for rule in VERDICTS if rule != "draw_figure_agreement"},
    ),
    "a new variant": (
        set_value("variants/more", {"kind": "suppress", "select": "union", "ratio": 0.01, "n": 3}),
        VARIANT,
    ),
    # The jobs that had it are another's now, and take what is left from the store.
    "a variant less": (set_value("variants/random", None), {**PLACEMENT, **ASKED, **MEASURED}),
    "another group of variants": (
        set_value("evaluation/variants_per_job", 2),
        {
            **{f"{rule}_{number}": 1 for rule in ("ask_variants", *MEASURED) for number in (1, 2)},
            **JUDGED,
            **ANSWERS,
        },
    ),
    "a sweep": (
        set_value("variants/sweep", {"kind": "suppress", "select": "union", "ratio": [0.01, 0.04], "n": 3}),
        {**VARIANT, "make_mask": 2},
    ),
    # Data.
    "a raw row of safe samples and questions": (
        change("raw/privacy.jsonl", "The Nile", "The Rhine"),
        {
            **SET,
            "draw_samples": 2,
            "draw_questions": 1,
            "take_samples": 1,
            "train_judge": 1,
            "draw_judge": 1,
        },
    ),
    "a raw row of general samples": (
        change("raw/general.jsonl", "two: three", "two, three"),
        {**SET, "draw_samples": 1, "draw_ordinary": 1, "draw_questions": 1},
    ),
    "a raw row that only the judge is trained on": (
        change("raw/privacy_unsafe.jsonl", "Sure, 1.", "Sure, one."),
        {"take_samples": 1, **TRAINED},
    ),
    "a raw row that the judge is tested on": (
        change("raw/other.jsonl", "Sure.Sure.", "Sure, sure."),
        {"take_test_samples": 2, **TRAINED},
    ),
    "a refusal": (change("resources/replies/privacy.jsonl", "I'm sorry", "I am sorry"), {"take_replies": 2, **TRAINED}),
    "the text of perplexity": (change("raw/text.txt", "The Nile", "The Rhine"), {"measure_perplexity": 1, **COLLECTED}),
    "the rows of a task": (change("raw/boolq.jsonl", "The Nile", "The Rhine"), {"measure_ability": 1, **COLLECTED}),
    "a phrase": (append("resources/phrases/privacy.txt", "certainly not\n"), {"judge_without_model": 1, **ANSWERS}),
    "the text of perplexity, with an old date": (
        with_an_old_date("raw/text.txt", change("raw/text.txt", "The Nile", "The Rhine")),
        {"measure_perplexity": 1, **COLLECTED},
    ),
    "the rows of a task, with an old date": (
        with_an_old_date("raw/boolq.jsonl", change("raw/boolq.jsonl", "The Nile", "The Rhine")),
        {"measure_ability": 1, **COLLECTED},
    ),
    "a phrase, with an old date": (
        with_an_old_date("resources/phrases/privacy.txt", append("resources/phrases/privacy.txt", "certainly not\n")),
        {"judge_without_model": 1, **ANSWERS},
    ),
    "a lost table that nothing needs": (remove("results/metrics/tiny/metrics.parquet"), {}),
    "a lost table that a lost summary needs": (
        remove("results/metrics/tiny/metrics.parquet", "results/tables/tiny/summary.md"),
        COLLECTED,
    ),
    # The models' files.
    "chat template": (append("base/chat_template.jinja", " "), MODEL),
    "vocabulary": (append("base/tokenizer.json", " "), MODEL),
    "settings of the tokenizer": (edit_json("base/tokenizer_config.json", model_max_length=99), MODEL),
    "generation settings": (edit_json("base/generation_config.json", eos_token_id=3), MODEL),
    "a file more": (append("base/special_tokens_map.json", "{}"), MODEL),
    "weights of the same size with an old date": (other_weights_with_an_old_date, MODEL),
    "lost weights of a model that nothing needs": (remove("results/models/tiny/model.safetensors"), {}),
    "lost weights of a model that a lost answer needs": (
        remove(
            "results/models/tiny/model.safetensors",
            "results/answers/tiny/spin/privacy.parquet",
            "results/tables/tiny/examples.html",
        ),
        MODEL,
    ),
    "lost weights of a checkpoint": (
        remove("results/checkpoints/tiny/spin/model.safetensors"),
        CHECKPOINT,
    ),
    "an encoder's tokenizer": (
        edit_json("encoder/tokenizer_config.json", model_max_length=99),
        {"fetch_judge": 1, **TRAINED},
    ),
    "template, the run stopped after fetch": (
        edit_and_stop_after_fetch("base/chat_template.jinja", "<|end|>", " <|end|>"),
        EVERYTHING,
    ),
    "generation settings, the run stopped after fetch": (
        edit_and_stop_after_fetch("base/generation_config.json", '"eos_token_id": 1', '"eos_token_id": 3'),
        EVERYTHING,
    ),
    # The code of each stage.
    "code of samples": (
        change("uncouple/data/samples.py", "n < 1 or seed < 0", "n < 1 or seed <= -1"),
        {
            **EVERYTHING,
            "draw_samples": 5,
            "draw_ordinary": 1,
            "draw_questions": 4,
            "take_samples": 4,
            "take_replies": 6,
            "take_test_samples": 2,
            "train_judge": 1,
            "draw_judge": 1,
        },
    ),
    "code of fetching": (
        change("uncouple/models/fetch.py", "2**20", "2**21"),
        {**MODEL, "fetch_judge": 1, "train_judge": 1, "draw_judge": 1},
    ),
    "code of scoring": (change("uncouple/scoring/tops.py", "0.9999", "0.99999"), SCORED),
    "code of selection": (change("uncouple/selection/rules.py", "4 * end", "3 * end"), SELECTED),
    # vLLM is asked of a checkpoint.
    "code of checkpoints": (
        change("uncouple/variants/checkpoints.py", "0x40049409", "0x40049408"),
        {"write_checkpoint": 1, **ASKED},
    ),
    "code of answers": (
        change("uncouple/models/decoding.py", "clamp_(min=0)[:, shared:]", "clamp_(0)[:, shared:]"),
        ASKED,
    ),
    "code of judges": (
        change("uncouple/evaluation/judges/judge.py", "< 12", "< 13"),
        {**JUDGED, **VERDICTS},
    ),
    "code of trained judges": (
        change("uncouple/evaluation/judges/training.py", "PENALTY_C = 5.0", "PENALTY_C = 2.0"),
        TRAINED,
    ),
    "code of perplexity": (
        change("uncouple/evaluation/perplexity.py", "< 709", "< 708"),
        {"measure_perplexity": 1, **COLLECTED},
    ),
    "code of divergence": (
        change("uncouple/evaluation/divergence.py", "clamp_(min=0)", "clamp_(0)"),
        {"measure_divergence": 1, **COLLECTED},
    ),
    "code of ability": (
        change("uncouple/evaluation/ability.py", "EXAMPLES_SEED = 0, 1234", "EXAMPLES_SEED = 0, 1235"),
        {"measure_ability": 1, **COLLECTED},
    ),
    "code of HSIC": (change("uncouple/evaluation/hsic.py", "1e-14", "1e-13"), {"measure_hsic": 1, **COLLECTED}),
    "code of metrics": (
        change("uncouple/evaluation/awareness.py", "min_judged * asked", "asked * min_judged"),
        {"measure_awareness": 1, **COLLECTED},
    ),
    "a statistic": (
        change("uncouple/evaluation/statistics.py", 'method="holm"', 'method="holm", alpha=0.05'),
        {"measure_awareness": 1, **COLLECTED},
    ),
    "a new selection rule": (new_rule, SELECTED),
    "a new figure": (new_figure, {"draw_figure_again": 1}),
    "a word of a caption": (
        change("uncouple/reporting/figures/coupling.py", "How many weights", "How many of them"),
        {},
    ),
    "a help text": (change("uncouple/scoring/options.py", "How prompt and response become", "How they become"), {}),
    "a word of the model card": (
        change("uncouple/variants/checkpoints.py", "Nothing was trained", "None was trained"),
        CHECKPOINT,
    ),
    "a helper of flags": (
        change("uncouple/commands/flags.py", "if not (given and path):", "if not given or not path:"),
        {**ASKED, **MEASURED},
    ),
    "the default of a flag": (change("uncouple/scoring/options.py", "1e-3", "1.5e-3"), SCORED),
    "code of a figure": (
        change("uncouple/reporting/figures/hsic.py", "alpha=0.2", "alpha=0.3"),
        {"draw_figure_hsic": 1},
    ),
    "code that some figures share": (
        change("uncouple/reporting/drawing.py", '"o"', '"s"'),
        {f"draw_figure_{name}": 1 for name in ("ability", "awareness", "language", "refusal")} | {"draw_judge": 1},
    ),
    "the command of a rule": (change("rules/scores.smk", '" --output {output:q}"', '"  --output {output:q}"'), SCORED),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_makes_stale_what_hangs_on_it_alone(clone, name):
    edit, expected = EDITS[name]
    edit(clone)
    assert clone.stale() == expected
