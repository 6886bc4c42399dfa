# Questions to answers, answers to verdicts, verdicts and the variants themselves to one table of metrics.


localrules:
    measure_awareness,
    measure_language,
    collect_metrics,


rule ask_variant:
    input:
        model=PATHS.model(),
        questions=PATHS.questions(),
        mask=variant_mask,
    output:
        PATHS.answers(),
    log:
        PATHS.log(PATHS.answers()),
    benchmark:
        PATHS.benchmark(PATHS.answers())
    conda:
        "../envs/torch.yaml"
    threads: threads_of_gpu_job()
    resources:
        gpu=gpus_of_model,
        mem_mb=scoring_memory_mb,
    params:
        mask=mask_flag,
        options=lambda wildcards: flags((EVALUATION, Asking)),
        noise=noise_flag,
        running=running,
        code=fingerprint("ask"),
    shell:
        "python -m uncouple ask {input.questions:q}"
        ' --model "$(dirname {input.model:q})"'
        " {params.mask}"
        " --variant {wildcards.variant:q}"
        " {params.options}"
        " {params.noise}"
        " {params.running}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule train_judge:
    input:
        samples=[PATHS.all_samples(label=label) for label in ("safe", "unsafe")],
        encoder=PATHS.judge_model(),
        replies=PATHS.replies(),
        tests=lambda wildcards: PATHS.tests(wildcards.dimension),
    output:
        PATHS.trained_judge(),
    log:
        PATHS.log(PATHS.trained_judge()),
    conda:
        "../envs/torch.yaml"
    threads: threads_of_gpu_job()
    resources:
        gpu=1,
        mem_mb=4000,
    params:
        options=lambda wildcards: flags(replies=PATHS.replies() or None, test=PATHS.tests(wildcards.dimension) or None),
        code=fingerprint("train-judge"),
    shell:
        "python -m uncouple train-judge {input.samples:q}"
        ' --encoder "$(dirname {input.encoder:q})"'
        " {params.options}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule judge_answers:
    input:
        unpack(judge_inputs),
        answers=PATHS.answers(),
    output:
        PATHS.verdicts(),
    log:
        PATHS.log(PATHS.verdicts()),
    conda:
        "../envs/torch.yaml"
    threads: threads_of_judge
    resources:
        gpu=gpus_of_judge,
        mem_mb=judge_memory_mb,
    params:
        options=judge_flags,
        code=fingerprint("judge"),
    shell:
        "python -m uncouple judge {input.answers:q}"
        " --name {wildcards.judge:q}"
        " {params.options}"
        " --output {output:q}"
        " > {log:q} 2>&1"


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
        options=lambda wildcards: flags(min_judged=EVALUATION.min_judged),
        code=fingerprint("measure"),
    shell:
        "python -m uncouple measure awareness {input:q}" " {params.options}" " --output {output:q}" " > {log:q} 2>&1"


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
        code=fingerprint("measure"),
    shell:
        "python -m uncouple measure language {input.answers:q}"
        " {params.options}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule measure_perplexity:
    input:
        model=PATHS.model(),
        mask=variant_mask,
        text=local_file(EVALUATION.perplexity),
    output:
        PATHS.metrics("perplexity/{variant}"),
    log:
        PATHS.log(PATHS.metrics("perplexity/{variant}")),
    benchmark:
        PATHS.benchmark(PATHS.metrics("perplexity/{variant}"))
    conda:
        "../envs/torch.yaml"
    threads: threads_of_gpu_job()
    resources:
        gpu=gpus_of_model,
        mem_mb=scoring_memory_mb,
    params:
        options=lambda wildcards: flags(EVALUATION.perplexity, dtype=EVALUATION.dtype),
        mask=mask_flag,
        device=placed,
        code=fingerprint("perplexity"),
    shell:
        "python -m uncouple perplexity"
        ' --model "$(dirname {input.model:q})"'
        " {params.mask}"
        " --variant {wildcards.variant:q}"
        " {params.options}"
        " {params.device}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule measure_ability:
    input:
        model=PATHS.model(),
        mask=variant_mask,
        tasks=[path for path in TASKS.values() if path],
        definitions=[from_root(f"uncouple/evaluation/tasks/{task}.yaml") for task in TASKS if task in OWN_TASKS],
    output:
        PATHS.metrics("ability/{variant}"),
    log:
        PATHS.log(PATHS.metrics("ability/{variant}")),
    benchmark:
        PATHS.benchmark(PATHS.metrics("ability/{variant}"))
    conda:
        "../envs/torch.yaml"
    threads: threads_of_gpu_job()
    resources:
        gpu=gpus_of_model,
        mem_mb=scoring_memory_mb,
    params:
        tasks=[f"{task}={path}" if path else task for task, path in TASKS.items()],
        options=lambda wildcards: flags(EVALUATION.ability, but=("tasks",), dtype=EVALUATION.dtype),
        mask=mask_flag,
        device=placed,
        code=fingerprint("ability"),
    shell:
        "python -m uncouple ability {params.tasks:q}"
        ' --model "$(dirname {input.model:q})"'
        " {params.mask}"
        " --variant {wildcards.variant:q}"
        " {params.options}"
        " {params.device}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule measure_hsic:
    input:
        samples=lambda wildcards: PATHS.hsic_samples(wildcards.one, wildcards.other),
        model=PATHS.model(),
        mask=variant_mask,
    output:
        PATHS.metrics("hsic/{variant}/{one}-{other}"),
    log:
        PATHS.log(PATHS.metrics("hsic/{variant}/{one}-{other}")),
    wildcard_constraints:
        one="|".join(EXPERIMENT.dimensions),
        other="|".join(EXPERIMENT.dimensions),
    conda:
        "../envs/torch.yaml"
    threads: threads_of_gpu_job()
    resources:
        gpu=gpus_of_model,
        mem_mb=scoring_memory_mb,
    params:
        options=lambda wildcards: flags(
            (EVALUATION.hsic, Pairing), prompt=EXPERIMENT.scoring.prompt, dtype=EVALUATION.dtype
        ),
        mask=mask_flag,
        running=running,
        code=fingerprint("hsic"),
    shell:
        "python -m uncouple hsic {input.samples:q}"
        ' --model "$(dirname {input.model:q})"'
        " {params.mask}"
        " --variant {wildcards.variant:q}"
        " {params.options}"
        " {params.running}"
        " --output {output:q}"
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
        code=fingerprint("measure"),
    shell:
        "python -m uncouple measure collect {input:q}" " --output {output:q}" " > {log:q} 2>&1"
