# Samples to fine-tuned models, or to adapters; each with its learning curve.


rule tune_model:
    input:
        model=lambda wildcards: PATHS.base(wildcards.model, EXPERIMENT.tuning(wildcards.variant).of),
        samples=lambda wildcards: PATHS.tuning_samples(wildcards.variant),
    output:
        made=PATHS.checkpoint(),
        curve=PATHS.curve(),
    log:
        PATHS.log(PATHS.checkpoint()),
    benchmark:
        PATHS.benchmark(PATHS.checkpoint())
    wildcard_constraints:
        variant=one_of(set(EXPERIMENT.tuned) - set(EXPERIMENT.adapted)),
    conda:
        "../envs/torch.yaml"
    threads: threads_of_gpu_job
    resources:
        gpu=gpus_of_model,
        mem_mb=tuning_memory_mb,
        runtime=minutes(20),
    params:
        options=tuning_flags,
        running=running,
        order=lambda wildcards: PATHS.tuning_samples(wildcards.variant),
        code=code_of("tune"),
    shell:
        "python -m uncouple tune {input.samples:q}"
        ' --model "$(dirname {input.model:q})"'
        " --variant {wildcards.variant:q}"
        " {params.options}"
        " {params.running}"
        ' --output "$(dirname {output.made:q})"'
        " > {log:q} 2>&1"


use rule tune_model as tune_adapter with:
    output:
        made=PATHS.adapter(),
        curve=PATHS.curve(),
    log:
        PATHS.log(PATHS.adapter()),
    benchmark:
        PATHS.benchmark(PATHS.adapter())
    wildcard_constraints:
        variant=one_of(EXPERIMENT.adapted),
