# Questions to answers, answers to verdicts, verdicts to metrics.


localrules:
    judge_answers,
    measure_awareness,


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
        gpu=1,
        mem_mb=scoring_memory_mb,
    params:
        mask=lambda wildcards, input: f"--mask {input.mask}" if input.mask else "",
        prompt=lookup(dpath="evaluation/prompt", within=config),
        max_new_tokens=lookup(dpath="evaluation/max_new_tokens", within=config),
        batch_size=lookup(dpath="evaluation/batch_size", within=config),
        dtype=lookup(dpath="evaluation/dtype", within=config),
        code=fingerprint("ask"),
    shell:
        "python -m uncouple ask {input.questions:q}"
        " --model $(dirname {input.model:q})"
        " {params.mask}"
        " --variant {wildcards.variant:q}"
        " --prompt {params.prompt}"
        " --max-new-tokens {params.max_new_tokens}"
        " --batch-size {params.batch_size}"
        " --dtype {params.dtype}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule judge_answers:
    input:
        answers=f"{RESULTS}/answers/{{model}}/{{variant}}/{{dimension}}.parquet",
        phrases=lambda wildcards: from_root(config["dimensions"][wildcards.dimension]["phrases"]),
    output:
        f"{RESULTS}/verdicts/{{model}}/{{variant}}/{{dimension}}.{{judge}}.parquet",
    log:
        f"{LOGS}/verdicts/{{model}}/{{variant}}/{{dimension}}.{{judge}}.log",
    conda:
        "../envs/tables.yaml"
    params:
        code=fingerprint("judge"),
    shell:
        "python -m uncouple judge {input.answers:q}"
        " --judge {wildcards.judge:q}"
        " --phrases {input.phrases:q}"
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
        code=fingerprint("measure"),
    shell:
        "python -m uncouple measure awareness {input:q}" " --output {output:q}" " > {log:q} 2>&1"
