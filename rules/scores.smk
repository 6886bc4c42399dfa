# Importance scores: one job a model, sample set and range of layers.


rule score_shard:
    input:
        model=f"{RESULTS}/models/{{model}}/uncouple.json",
        samples=f"{RESULTS}/samples/{{sample_set}}.parquet",
    output:
        f"{RESULTS}/scores/{{model}}/{{sample_set}}/layers-{{first}}-{{last}}.parquet",
    log:
        f"{LOGS}/scores/{{model}}/{{sample_set}}/layers-{{first}}-{{last}}.log",
    benchmark:
        f"{BENCHMARKS}/scores/{{model}}/{{sample_set}}/layers-{{first}}-{{last}}.tsv"
    conda:
        "../envs/torch.yaml"
    threads: threads_of_gpu_job()
    resources:
        gpu=gpus_of_model,
        mem_mb=scoring_memory_mb,
    params:
        prompt=lookup(dpath="scoring/prompt", within=config),
        module=lookup(dpath="scoring/module", within=config),
        keep=lookup(dpath="scoring/keep", within=config),
        batch_tokens=lookup(dpath="scoring/batch_tokens", within=config),
        dtype=lookup(dpath="scoring/dtype", within=config),
        device=device,
        template=template_flags,
        code=fingerprint("score"),
    shell:
        "python -m uncouple score {input.samples:q}"
        ' --model "$(dirname {input.model:q})"'
        " --layers {wildcards.first}:{wildcards.last}"
        " --module {params.module}"
        " --prompt {params.prompt}"
        " {params.template}"
        " --keep {params.keep}"
        " --batch-tokens {params.batch_tokens}"
        " --dtype {params.dtype}"
        " --device {params.device}"
        " --output {output:q}"
        " > {log:q} 2>&1"
