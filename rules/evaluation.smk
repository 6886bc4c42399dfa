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
        options=section_options("evaluation", "prompt", "max_new_tokens", "batch_size", "engine", "dtype"),
        noise=noise_flag,
        device=device_option,
        template=template_options,
        code=fingerprint("ask"),
    shell:
        "python -m uncouple ask {input.questions:q}"
        ' --model "$(dirname {input.model:q})"'
        " {params.mask}"
        " --variant {wildcards.variant:q}"
        " {params.options}"
        " {params.noise}"
        " {params.device}"
        " {params.template}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule train_judge:
    input:
        samples=expand(f"{RESULTS}/samples/{{{{dimension}}}}-{{label}}-all.parquet", label=["safe", "unsafe"]),
        encoder=f"{RESULTS}/judges/{{judge}}/model/uncouple.json",
        replies=all_replies(),
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
        options=lambda wildcards: options(replies=all_replies() or None, test=judge_tests(wildcards) or None),
        code=fingerprint("train"),
    shell:
        "python -m uncouple train {input.samples:q}"
        ' --encoder "$(dirname {input.encoder:q})"'
        " {params.options}"
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
        options=judge_options,
        code=fingerprint("judge"),
    shell:
        "python -m uncouple judge {input.answers:q}"
        " --name {wildcards.judge:q}"
        " {params.options}"
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
        order=lambda wildcards: all_verdicts(wildcards.model),
        options=lambda wildcards: options(min_judged=config["evaluation"]["min_judged"]),
        code=fingerprint("measure"),
    shell:
        "python -m uncouple measure awareness {input:q}" " {params.options}" " --output {output:q}" " > {log:q} 2>&1"


rule measure_language:
    input:
        answers=counted_answers,
        phrases=[from_root(config["dimensions"][name]["phrases"]) for name in with_phrases()],
    output:
        f"{RESULTS}/metrics/{{model}}/language.parquet",
    log:
        f"{LOGS}/metrics/{{model}}/language.log",
    conda:
        "../envs/tables.yaml"
    params:
        order=counted_answers,
        options=lambda wildcards: options(
            phrases=[f"{name}={from_root(config['dimensions'][name]['phrases'])}" for name in with_phrases()]
        ),
        code=fingerprint("measure"),
    shell:
        "python -m uncouple measure language {input.answers:q}"
        " {params.options}"
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
        options=lambda wildcards: options(**from_source(PERPLEXITY, *PERPLEXITY), dtype=config["evaluation"]["dtype"]),
        mask=mask_flag,
        device=device_option,
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
        model=f"{RESULTS}/models/{{model}}/uncouple.json",
        mask=variant_mask,
        tasks=[from_root(path) for path in ability("tasks", {}).values() if path != "hub"],
        definitions=[from_root(f"uncouple/evaluation/tasks/{task}.yaml") for task in ability("tasks", {}) if task in OWN_TASKS],
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
        options=lambda wildcards: options(
            limit=ability("limit", 0), batch_size=ability("batch_size", 0), dtype=config["evaluation"]["dtype"]
        ),
        mask=mask_flag,
        device=device_option,
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
        options=lambda wildcards: options(
            prompt=config["scoring"]["prompt"],
            permutations=config["evaluation"]["hsic"]["permutations"],
            dtype=config["evaluation"]["dtype"],
        ),
        mask=mask_flag,
        device=device_option,
        template=template_options,
        code=fingerprint("represent"),
    shell:
        "python -m uncouple represent {input.samples:q}"
        ' --model "$(dirname {input.model:q})"'
        " {params.mask}"
        " --variant {wildcards.variant:q}"
        " {params.options}"
        " {params.device}"
        " {params.template}"
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
        order=lambda wildcards: all_metrics(wildcards.model),
        code=fingerprint("measure"),
    shell:
        "python -m uncouple measure collect {input:q}" " --output {output:q}" " > {log:q} 2>&1"
