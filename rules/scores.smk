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
        options=section_options("scoring", "module", "prompt", "keep", "batch_tokens", "dtype"),
        device=device_option,
        template=template_options,
        code=fingerprint("score"),
    shell:
        "python -m uncouple score {input.samples:q}"
        ' --model "$(dirname {input.model:q})"'
        " --layers {wildcards.first}:{wildcards.last}"
        " {params.options}"
        " {params.device}"
        " {params.template}"
        " --output {output:q}"
        " > {log:q} 2>&1"
