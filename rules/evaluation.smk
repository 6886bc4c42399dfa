# Questions to answers, answers to verdicts, verdicts and the variants themselves to one table of metrics.


localrules:
    measure_awareness,
    measure_language,
    collect_metrics,


rule ask_variant:
    input:
        model=f"{RESULTS}/models/{{model}}/uncouple.json",
        questions=f"{RESULTS}/samples/questions/{{dimension}}.parquet",
        mask=variant_mask,
    output:
        f"{RESULTS}/answers/{{model}}/{{variant}}/{{dimension}}.parquet",
    log:
        f"{LOGS}/answers/{{model}}/{{variant}}/{{dimension}}.log",
    benchmark:
        f"{BENCHMARKS}/answers/{{model}}/{{variant}}/{{dimension}}.tsv"
    conda:
        "../envs/torch.yaml"
    threads: threads_of_gpu_job()
    resources:
        gpu=gpus_of_model,
        mem_mb=scoring_memory_mb,
    params:
        mask=mask_flag,
        prompt=lookup(dpath="evaluation/prompt", within=config),
        max_new_tokens=lookup(dpath="evaluation/max_new_tokens", within=config),
        batch_size=answer_batch_size,
        engine=lookup(dpath="evaluation/engine", within=config),
        dtype=lookup(dpath="evaluation/dtype", within=config),
        device=device,
        template=template_flags,
        code=fingerprint("ask"),
    shell:
        "python -m uncouple ask {input.questions:q}"
        ' --model "$(dirname {input.model:q})"'
        " {params.mask}"
        " --variant {wildcards.variant:q}"
        " --prompt {params.prompt}"
        " {params.template}"
        " --max-new-tokens {params.max_new_tokens}"
        " --batch-size {params.batch_size}"
        " --engine {params.engine}"
        " --dtype {params.dtype}"
        " --device {params.device}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule train_judge:
    input:
        samples=expand(f"{RESULTS}/samples/{{{{dimension}}}}-{{label}}-all.parquet", label=["safe", "unsafe"]),
        encoder=f"{RESULTS}/judges/{{judge}}/model/uncouple.json",
        tests=judge_tests,
    output:
        f"{RESULTS}/judges/{{judge}}/{{dimension}}.json",
    log:
        f"{LOGS}/judges/{{judge}}/{{dimension}}.log",
    conda:
        "../envs/torch.yaml"
    threads: threads_of_gpu_job()
    resources:
        gpu=1,
        mem_mb=4000,
    params:
        tests=lambda wildcards, input: shlex.join(["--test", *input.tests]) if input.tests else "",
        code=fingerprint("train"),
    shell:
        "python -m uncouple train {input.samples:q}"
        ' --encoder "$(dirname {input.encoder:q})"'
        " {params.tests}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule judge_answers:
    input:
        unpack(judge_inputs),
        answers=f"{RESULTS}/answers/{{model}}/{{variant}}/{{dimension}}.parquet",
    output:
        f"{RESULTS}/verdicts/{{model}}/{{variant}}/{{dimension}}.{{judge}}.parquet",
    log:
        f"{LOGS}/verdicts/{{model}}/{{variant}}/{{dimension}}.{{judge}}.log",
    conda:
        "../envs/torch.yaml"
    threads: threads_of_judge
    resources:
        gpu=gpus_of_judge,
        mem_mb=judge_memory_mb,
    params:
        kind=judge_value("kind"),
        batch_size=judge_value("batch_size"),
        dtype=judge_value("dtype"),
        flags=judge_flags,
        code=fingerprint("judge"),
    shell:
        "python -m uncouple judge {input.answers:q}"
        " --judge {params.kind}"
        " --name {wildcards.judge:q}"
        " {params.flags}"
        " --batch-size {params.batch_size}"
        " --dtype {params.dtype}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule measure_awareness:
    input:
        lambda wildcards: all_verdicts(wildcards.model),
    output:
        f"{RESULTS}/metrics/{{model}}/awareness.parquet",
    log:
        f"{LOGS}/metrics/{{model}}/awareness.log",
    conda:
        "../envs/tables.yaml"
    params:
        noise=NOISE,
        min_judged=lookup(dpath="evaluation/min_judged", within=config),
        code=fingerprint("measure"),
    shell:
        "python -m uncouple measure awareness {input:q}"
        " --noise {params.noise:q}"
        " --min-judged {params.min_judged}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule measure_language:
    input:
        answers=lambda wildcards: [path for path in all_answers(wildcards.model) if Path(path).stem in with_phrases()],
        phrases=[from_root(config["dimensions"][name]["phrases"]) for name in with_phrases()],
    output:
        f"{RESULTS}/metrics/{{model}}/language.parquet",
    log:
        f"{LOGS}/metrics/{{model}}/language.log",
    conda:
        "../envs/tables.yaml"
    params:
        phrases=lambda wildcards, input: [f"{n}={p}" for n, p in zip(with_phrases(), input.phrases)],
        code=fingerprint("measure"),
    shell:
        "python -m uncouple measure language {input.answers:q}"
        " --phrases {params.phrases:q}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule measure_perplexity:
    input:
        model=f"{RESULTS}/models/{{model}}/uncouple.json",
        mask=variant_mask,
        text=local_file(PERPLEXITY),
    output:
        f"{RESULTS}/metrics/{{model}}/perplexity/{{variant}}.parquet",
    log:
        f"{LOGS}/metrics/{{model}}/perplexity/{{variant}}.log",
    benchmark:
        f"{BENCHMARKS}/metrics/{{model}}/perplexity/{{variant}}.tsv"
    conda:
        "../envs/torch.yaml"
    threads: threads_of_gpu_job()
    resources:
        gpu=gpus_of_model,
        mem_mb=scoring_memory_mb,
    params:
        text=shlex.join(flags_of(PERPLEXITY, PERPLEXITY)),
        mask=mask_flag,
        dtype=lookup(dpath="evaluation/dtype", within=config),
        device=device,
        code=fingerprint("perplexity"),
    shell:
        "python -m uncouple perplexity {params.text}"
        ' --model "$(dirname {input.model:q})"'
        " {params.mask}"
        " --variant {wildcards.variant:q}"
        " --dtype {params.dtype}"
        " --device {params.device}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule measure_ability:
    input:
        model=f"{RESULTS}/models/{{model}}/uncouple.json",
        mask=variant_mask,
        tasks=[from_root(path) for path in ability("tasks", {}).values() if path != "hub"],
        definitions=[from_root(f"resources/tasks/{task}.yaml") for task in ability("tasks", {}) if task in OWN_TASKS],
    output:
        f"{RESULTS}/metrics/{{model}}/ability/{{variant}}.parquet",
    log:
        f"{LOGS}/metrics/{{model}}/ability/{{variant}}.log",
    benchmark:
        f"{BENCHMARKS}/metrics/{{model}}/ability/{{variant}}.tsv"
    conda:
        "../envs/torch.yaml"
    threads: threads_of_gpu_job()
    resources:
        gpu=gpus_of_model,
        mem_mb=scoring_memory_mb,
    params:
        tasks=[t if path == "hub" else f"{t}={from_root(path)}" for t, path in ability("tasks", {}).items()],
        limit=ability("limit", 0),
        batch_size=ability("batch_size", 0),
        mask=mask_flag,
        dtype=lookup(dpath="evaluation/dtype", within=config),
        device=device,
        code=fingerprint("ability"),
    shell:
        "python -m uncouple ability {params.tasks:q}"
        ' --model "$(dirname {input.model:q})"'
        " {params.mask}"
        " --variant {wildcards.variant:q}"
        " --limit {params.limit}"
        " --batch-size {params.batch_size}"
        " --dtype {params.dtype}"
        " --device {params.device}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule measure_hsic:
    input:
        samples=hsic_samples,
        model=f"{RESULTS}/models/{{model}}/uncouple.json",
        mask=variant_mask,
    output:
        f"{RESULTS}/metrics/{{model}}/hsic/{{variant}}/{{one}}-{{other}}.parquet",
    log:
        f"{LOGS}/metrics/{{model}}/hsic/{{variant}}/{{one}}-{{other}}.log",
    wildcard_constraints:
        one="|".join(config["dimensions"]),
        other="|".join(config["dimensions"]),
    conda:
        "../envs/torch.yaml"
    threads: threads_of_gpu_job()
    resources:
        gpu=gpus_of_model,
        mem_mb=scoring_memory_mb,
    params:
        prompt=lookup(dpath="scoring/prompt", within=config),
        permutations=lookup(dpath="evaluation/hsic/permutations", within=config),
        mask=mask_flag,
        dtype=lookup(dpath="evaluation/dtype", within=config),
        device=device,
        template=template_flags,
        code=fingerprint("represent"),
    shell:
        "python -m uncouple represent {input.samples:q}"
        ' --model "$(dirname {input.model:q})"'
        " {params.mask}"
        " --variant {wildcards.variant:q}"
        " --prompt {params.prompt}"
        " {params.template}"
        " --permutations {params.permutations}"
        " --dtype {params.dtype}"
        " --device {params.device}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule collect_metrics:
    input:
        lambda wildcards: all_metrics(wildcards.model),
    output:
        f"{RESULTS}/metrics/{{model}}/metrics.parquet",
    log:
        f"{LOGS}/metrics/{{model}}/metrics.log",
    conda:
        "../envs/tables.yaml"
    params:
        code=fingerprint("measure"),
    shell:
        "python -m uncouple measure collect {input:q}" " --output {output:q}" " > {log:q} 2>&1"
