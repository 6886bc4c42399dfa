# Importance scores: one job a model or checkpoint, sample set and range of layers.


rule score_shard:
    input:
        model=lambda wildcards: PATHS.base(wildcards.model, wildcards.base),
        samples=PATHS.sample_set(),
    output:
        PATHS.scores(),
    log:
        PATHS.log(PATHS.scores()),
    benchmark:
        PATHS.benchmark(PATHS.scores())
    conda:
        "../envs/torch.yaml"
    threads: threads_of_gpu_job
    resources:
        store=STORE,
        gpu=gpus_of_model,
        mem_mb=scoring_memory_mb,
        runtime=minutes(4),
    params:
        options=lambda wildcards: flags((EXPERIMENT.scoring, Scoring)),
        running=running,
        code=code_of("score"),
    shell:
        "python -m uncouple score {input.samples:q}"
        ' --model "$(dirname {input.model:q})"'
        " --layers {wildcards.first}:{wildcards.last}"
        " {params.options}"
        " {params.running}"
        " --store {resources.store:q}"
        " --output {output:q}"
        " > {log:q} 2>&1"
