# Questions to answers, answers to verdicts, verdicts and the variants themselves to one table of metrics.


localrules:
    judge_without_model,
    measure_awareness,
    measure_choice,
    measure_language,
    collect_metrics,


# One job loads a base once and asks a group of its variants all questions. Results that the store has are taken from it.
for group in EXPERIMENT.groups:

    rule:
        name:
            f"ask_variants{group.suffix}"
        input:
            model=PATHS.base(variant=group.base),
            questions=[PATHS.questions(name) for name in EXPERIMENT.asked],
            edits=[PATHS.edit(variant=variant) for variant in group.edited],
        output:
            [PATHS.answers(variant=variant, dimension=name) for variant in group.variants for name in EXPERIMENT.asked],
        log:
            PATHS.log(PATHS.answers_of(group)),
        benchmark:
            PATHS.benchmark(PATHS.answers_of(group))
        conda:
            "../envs/torch.yaml"
        threads: threads_of_gpu_job
        resources:
            store=STORE,
            gpu=gpus_of_model,
            mem_mb=scoring_memory_mb,
            runtime=minutes(4, len(group.variants)),
        params:
            variants=variant_flags(group.variants),
            options=lambda wildcards: flags((EVALUATION, Asking)),
            running=running,
            output=lambda wildcards: flags(output=PATHS.answers(wildcards.model)),
            code=code_of("ask"),
        shell:
            "python -m uncouple ask {input.questions:q}"
            ' --model "$(dirname {input.model:q})"'
            " {params.variants}"
            " {params.options}"
            " {params.running}"
            " --store {resources.store:q}"
            " {params.output}"
            " > {log:q} 2>&1"


rule train_judge:
    input:
        samples=PATHS.judge_samples(),
        encoder=PATHS.judge_model(),
        replies=PATHS.replies(),
        tests=PATHS.tests(),
    output:
        PATHS.trained_judges(),
    log:
        PATHS.log(PATHS.trained_judge(dimension="training")),
    benchmark:
        PATHS.benchmark(PATHS.trained_judge(dimension="training"))
    conda:
        "../envs/torch.yaml"
    threads: threads_of_gpu_job
    resources:
        gpu=1,
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        options=lambda wildcards: flags(replies=PATHS.replies() or None, test=PATHS.tests() or None),
        output=lambda wildcards: flags(output=PATHS.trained_judge(wildcards.judge)),
        code=code_of("train-judge"),
    shell:
        "python -m uncouple train-judge {input.samples:q}"
        ' --encoder "$(dirname {input.encoder:q})"'
        " {params.options}"
        " {params.output}"
        " > {log:q} 2>&1"


RUNNING = {name for name, judge in EXPERIMENT.judges.items() if judge.runs_model}


# One job loads a judge once, for the answers of all variants.
rule judge_answers:
    input:
        answers=judged_answers,
        files=judge_inputs,
    output:
        [PATHS.verdicts(variant=v, dimension=d) for v in EXPERIMENT.variants for d in EXPERIMENT.dimensions],
    log:
        PATHS.log(PATHS.judged_by("{judge}")),
    benchmark:
        PATHS.benchmark(PATHS.judged_by("{judge}"))
    wildcard_constraints:
        judge=one_of(RUNNING),
    conda:
        "../envs/torch.yaml"
    threads: threads_of_gpu_job
    resources:
        store=STORE,
        gpu=1,
        mem_mb=judge_memory_mb,
        runtime=growing(240),
    params:
        options=judge_flags,
        content=judge_content,
        output=lambda wildcards: flags(output=PATHS.verdicts(wildcards.model, judge=wildcards.judge)),
        code=code_of("judge"),
    shell:
        "python -m uncouple judge {input.answers:q}"
        " {params.options}"
        " --store {resources.store:q}"
        " {params.output}"
        " > {log:q} 2>&1"


# A judge without a model is done at once where Snakemake runs, and takes no GPU.
use rule judge_answers as judge_without_model with:
    wildcard_constraints:
        judge=one_of(EXPERIMENT.judges.keys() - RUNNING),
    threads: 1
    resources:
        store=STORE,
        mem_mb=2000,


# The classifier of refusals is for all answers, those to ordinary questions too.
if EXPERIMENT.ordinary:

    use rule judge_answers as tell_refusals with:
        input:
            answers=all_answers,
            files=judge_inputs,
        output:
            [
                PATHS.verdicts(variant=v, dimension=name, judge=REFUSAL)
                for v in EXPERIMENT.variants
                for name in EXPERIMENT.asked
            ],
        log:
            PATHS.log(PATHS.judged_by(REFUSAL)),
        benchmark:
            PATHS.benchmark(PATHS.judged_by(REFUSAL))
        params:
            options=judge_flags,
            output=lambda wildcards: flags(output=PATHS.verdicts(wildcards.model, judge=REFUSAL)),
            code=code_of("judge"),


rule measure_awareness:
    input:
        all_verdicts,
    output:
        PATHS.metrics("awareness"),
    log:
        PATHS.log(PATHS.metrics("awareness")),
    conda:
        "../envs/tables.yaml"
    params:
        order=all_verdicts,
        options=lambda wildcards: flags((EVALUATION, Comparing)),
        code=code_of("measure", "awareness"),
    shell:
        "python -m uncouple measure awareness {input:q}" " {params.options}" " --output {output:q}" " > {log:q} 2>&1"


rule measure_choice:
    input:
        verdicts=all_verdicts,
        sweeps=PATHS.sweeps(),
    output:
        PATHS.metrics("choice"),
    log:
        PATHS.log(PATHS.metrics("choice")),
    conda:
        "../envs/tables.yaml"
    params:
        order=all_verdicts,
        options=lambda wildcards: flags(min_judged=EVALUATION.min_judged),
        code=code_of("measure", "choice"),
    shell:
        "python -m uncouple measure choice {input.verdicts:q}"
        " --sweeps {input.sweeps:q}"
        " {params.options}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule measure_language:
    input:
        answers=counted_answers,
        phrases=[EXPERIMENT.dimensions[name].phrases for name in EXPERIMENT.counted],
    output:
        PATHS.metrics("language"),
    log:
        PATHS.log(PATHS.metrics("language")),
    conda:
        "../envs/tables.yaml"
    params:
        order=counted_answers,
        options=lambda wildcards: flags(
            phrases=[f"{name}={EXPERIMENT.dimensions[name].phrases}" for name in EXPERIMENT.counted]
        ),
        content=lambda wildcards: content_of(*(EXPERIMENT.dimensions[name].phrases for name in EXPERIMENT.counted)),
        code=code_of("measure", "language"),
    shell:
        "python -m uncouple measure language {input.answers:q}"
        " {params.options}"
        " --output {output:q}"
        " > {log:q} 2>&1"


# What is measured on text in which no prompt is told, an adapter would change nothing of. A noise variant is the origin:
# there is nothing to measure of it but its answers.
for group in EXPERIMENT.plain_groups:

    rule:
        name:
            f"measure_perplexity{group.suffix}"
        input:
            model=PATHS.base(variant=group.base),
            edits=[PATHS.edit(variant=variant) for variant in group.edited],
            text=local_file(EVALUATION.perplexity),
        output:
            [PATHS.metrics(f"perplexity/{variant}") for variant in group.variants],
        log:
            PATHS.log(PATHS.metrics_of("perplexity", group)),
        benchmark:
            PATHS.benchmark(PATHS.metrics_of("perplexity", group))
        conda:
            "../envs/torch.yaml"
        threads: threads_of_gpu_job
        resources:
            store=STORE,
            gpu=gpus_of_model,
            mem_mb=scoring_memory_mb,
            runtime=minutes(2, len(group.variants)),
        params:
            variants=variant_flags(group.variants),
            options=lambda wildcards: flags(EVALUATION.perplexity, dtype=EVALUATION.dtype),
            content=lambda wildcards: content_of(EVALUATION.perplexity.path),
            running=placed,
            output=lambda wildcards: flags(output=PATHS.metrics("perplexity/{variant}", wildcards.model)),
            code=code_of("perplexity"),
        shell:
            "python -m uncouple perplexity"
            ' --model "$(dirname {input.model:q})"'
            " {params.variants}"
            " {params.options}"
            " {params.running}"
            " --store {resources.store:q}"
            " {params.output}"
            " > {log:q} 2>&1"

    rule:
        name:
            f"measure_ability{group.suffix}"
        input:
            model=PATHS.base(variant=group.base),
            edits=[PATHS.edit(variant=variant) for variant in group.edited],
            tasks=[path for path in TASKS.values() if path],
            definitions=[from_root(f"uncouple/evaluation/tasks/{task}.yaml") for task in TASKS if task in OWN_TASKS],
        output:
            [PATHS.metrics(f"ability/{variant}") for variant in group.variants],
        log:
            PATHS.log(PATHS.metrics_of("ability", group)),
        benchmark:
            PATHS.benchmark(PATHS.metrics_of("ability", group))
        conda:
            "../envs/torch.yaml"
        threads: threads_of_gpu_job
        resources:
            store=STORE,
            gpu=gpus_of_model,
            mem_mb=scoring_memory_mb,
            runtime=minutes(10, len(group.variants)),
        params:
            variants=variant_flags(group.variants),
            tasks=[f"{task}={path}" if path else task for task, path in TASKS.items()],
            content=lambda wildcards: content_of(*TASKS.values()),
            options=lambda wildcards: flags(EVALUATION.ability, but=("tasks",), dtype=EVALUATION.dtype),
            running=placed,
            output=lambda wildcards: flags(output=PATHS.metrics("ability/{variant}", wildcards.model)),
            code=code_of("ability"),
        shell:
            "python -m uncouple ability {params.tasks:q}"
            ' --model "$(dirname {input.model:q})"'
            " {params.variants}"
            " {params.options}"
            " {params.running}"
            " --store {resources.store:q}"
            " {params.output}"
            " > {log:q} 2>&1"


for group in EXPERIMENT.measured_groups:

    rule:
        name:
            f"measure_divergence{group.suffix}"
        input:
            model=PATHS.base(variant=group.base),
            origin=[] if group.base == ORIGIN else PATHS.model(),
            edits=[PATHS.edit(variant=variant) for variant in group.edited],
            samples=PATHS.ordinary(),
        output:
            [PATHS.metrics(f"divergence/{variant}") for variant in group.variants],
        log:
            PATHS.log(PATHS.metrics_of("divergence", group)),
        benchmark:
            PATHS.benchmark(PATHS.metrics_of("divergence", group))
        conda:
            "../envs/torch.yaml"
        threads: threads_of_gpu_job
        resources:
            store=STORE,
            gpu=gpus_of_model,
            mem_mb=scoring_memory_mb,
            runtime=minutes(1, len(group.variants)),
        params:
            variants=variant_flags(group.variants),
            origin=origin_flags(group.base),
            options=lambda wildcards: flags(prompt=EXPERIMENT.scoring.prompt, dtype=EVALUATION.dtype),
            running=running,
            output=lambda wildcards: flags(output=PATHS.metrics("divergence/{variant}", wildcards.model)),
            code=code_of("divergence"),
        shell:
            "python -m uncouple divergence {input.samples:q}"
            ' --model "$(dirname {input.model:q})"'
            " {params.variants}"
            " {params.origin}"
            " {params.options}"
            " {params.running}"
            " --store {resources.store:q}"
            " {params.output}"
            " > {log:q} 2>&1"

    rule:
        name:
            f"measure_hsic{group.suffix}"
        input:
            model=PATHS.base(variant=group.base),
            edits=[PATHS.edit(variant=variant) for variant in group.edited],
            samples=lambda wildcards: PATHS.hsic_samples(wildcards.one, wildcards.other),
        output:
            [PATHS.metrics(f"hsic/{variant}/{{one}}-{{other}}") for variant in group.variants],
        log:
            PATHS.log(PATHS.metrics_of("hsic/{one}-{other}", group)),
        benchmark:
            PATHS.benchmark(PATHS.metrics_of("hsic/{one}-{other}", group))
        wildcard_constraints:
            one="|".join(EXPERIMENT.dimensions),
            other="|".join(EXPERIMENT.dimensions),
        conda:
            "../envs/torch.yaml"
        threads: threads_of_gpu_job
        resources:
            store=STORE,
            gpu=gpus_of_model,
            mem_mb=scoring_memory_mb,
            runtime=minutes(1, len(group.variants)),
        params:
            variants=variant_flags(group.variants),
            options=lambda wildcards: flags(
                (EVALUATION.hsic, Pairing), prompt=EXPERIMENT.scoring.prompt, dtype=EVALUATION.dtype
            ),
            running=running,
            output=lambda wildcards: flags(
                output=PATHS.metrics(f"hsic/{{variant}}/{wildcards.one}-{wildcards.other}", wildcards.model)
            ),
            code=code_of("hsic"),
        shell:
            "python -m uncouple hsic {input.samples:q}"
            ' --model "$(dirname {input.model:q})"'
            " {params.variants}"
            " {params.options}"
            " {params.running}"
            " --store {resources.store:q}"
            " {params.output}"
            " > {log:q} 2>&1"


rule collect_metrics:
    input:
        lambda wildcards: PATHS.metrics_parts(wildcards.model),
    output:
        PATHS.metrics("metrics"),
    log:
        PATHS.log(PATHS.metrics("metrics")),
    conda:
        "../envs/tables.yaml"
    params:
        order=lambda wildcards: PATHS.metrics_parts(wildcards.model),
        code=code_of("measure", "collect"),
    shell:
        "python -m uncouple measure collect {input:q}" " --output {output:q}" " > {log:q} 2>&1"
