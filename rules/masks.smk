# Scores to masks, masks to checkpoints, and how many weights couple.


localrules:
    make_mask,
    count_coupling,
    measure_placement,
    measure_stability,
    find_sweeps,


rule make_mask:
    input:
        model=lambda wildcards: PATHS.base_of(wildcards.model, wildcards.variant),
        scores=lambda wildcards: PATHS.shards(wildcards.model, wildcards.variant),
    output:
        PATHS.mask(),
    log:
        PATHS.log(PATHS.mask()),
    conda:
        "../envs/tables.yaml"
    params:
        options=mask_flags,
        code=code_of("mask"),
    shell:
        "python -m uncouple mask"
        ' --model "$(dirname {input.model:q})"'
        " --scores {input.scores:q}"
        " {params.options}"
        " --variant {wildcards.variant:q}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule write_checkpoint:
    input:
        model=lambda wildcards: PATHS.base_of(wildcards.model, wildcards.variant),
        mask=PATHS.mask(),
    output:
        PATHS.checkpoint(),
    log:
        PATHS.log(PATHS.checkpoint()),
    benchmark:
        PATHS.benchmark(PATHS.checkpoint())
    wildcard_constraints:
        variant=one_of(EXPERIMENT.masked),
    conda:
        "../envs/tables.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        code=code_of("apply"),
    shell:
        "python -m uncouple apply"
        ' --model "$(dirname {input.model:q})"'
        " --mask {input.mask:q}"
        ' --output "$(dirname {output:q})"'
        " > {log:q} 2>&1"


rule count_coupling:
    input:
        model=lambda wildcards: PATHS.base_of(wildcards.model, coupling_variant()),
        scores=lambda wildcards: PATHS.shards(wildcards.model, coupling_variant()),
    output:
        PATHS.metrics("coupling"),
    log:
        PATHS.log(PATHS.metrics("coupling")),
    conda:
        "../envs/tables.yaml"
    params:
        options=coupling_flags,
        code=code_of("measure", "coupling"),
    shell:
        "python -m uncouple measure coupling"
        ' --model "$(dirname {input.model:q})"'
        " --scores {input.scores:q}"
        " {params.options}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule measure_stability:
    input:
        masks=lambda wildcards: [PATHS.mask(wildcards.model, name) for name in EXPERIMENT.stable],
        sweeps=PATHS.sweeps(),
    output:
        PATHS.metrics("stability"),
    log:
        PATHS.log(PATHS.metrics("stability")),
    conda:
        "../envs/tables.yaml"
    params:
        order=lambda wildcards: [PATHS.mask(wildcards.model, name) for name in EXPERIMENT.stable],
        code=code_of("measure", "stability"),
    shell:
        "python -m uncouple measure stability {input.masks:q}"
        " --sweeps {input.sweeps:q}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule find_sweeps:
    output:
        PATHS.sweeps(),
    log:
        PATHS.log(PATHS.sweeps()),
    conda:
        "../envs/tables.yaml"
    params:
        sweeps=sweep_flags(),
        code=code_of("measure", "sweeps"),
    shell:
        "python -m uncouple measure sweeps {params.sweeps} --output {output:q} > {log:q} 2>&1"


rule measure_placement:
    input:
        lambda wildcards: PATHS.masks(wildcards.model),
    output:
        PATHS.metrics("placement"),
    log:
        PATHS.log(PATHS.metrics("placement")),
    conda:
        "../envs/tables.yaml"
    params:
        order=lambda wildcards: PATHS.masks(wildcards.model),
        code=code_of("measure", "placement"),
    shell:
        "python -m uncouple measure placement {input:q}" " --output {output:q}" " > {log:q} 2>&1"
