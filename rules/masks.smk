# Scores to masks, masks to checkpoints, and how many weights couple.


localrules:
    make_mask,
    count_coupling,
    measure_placement,


rule make_mask:
    input:
        model=f"{RESULTS}/models/{{model}}/uncouple.json",
        scores=lambda wildcards: shards(wildcards.model, wildcards.variant),
    output:
        f"{RESULTS}/masks/{{model}}/{{variant}}.parquet",
    log:
        f"{LOGS}/masks/{{model}}/{{variant}}.log",
    conda:
        "../envs/tables.yaml"
    params:
        options=mask_options,
        code=fingerprint("mask"),
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
        model=f"{RESULTS}/models/{{model}}/uncouple.json",
        mask=f"{RESULTS}/masks/{{model}}/{{variant}}.parquet",
    output:
        f"{RESULTS}/checkpoints/{{model}}/{{variant}}/uncouple.json",
    log:
        f"{LOGS}/checkpoints/{{model}}/{{variant}}.log",
    benchmark:
        f"{BENCHMARKS}/checkpoints/{{model}}/{{variant}}.tsv"
    conda:
        "../envs/tables.yaml"
    params:
        code=fingerprint("apply"),
    shell:
        "python -m uncouple apply"
        ' --model "$(dirname {input.model:q})"'
        " --mask {input.mask:q}"
        ' --output "$(dirname {output:q})"'
        " > {log:q} 2>&1"


rule count_coupling:
    input:
        model=f"{RESULTS}/models/{{model}}/uncouple.json",
        scores=lambda wildcards: shards(wildcards.model, coupling_variant()),
    output:
        f"{RESULTS}/metrics/{{model}}/coupling.parquet",
    log:
        f"{LOGS}/metrics/{{model}}/coupling.log",
    conda:
        "../envs/tables.yaml"
    params:
        options=coupling_options,
        code=fingerprint("measure"),
    shell:
        "python -m uncouple measure coupling"
        ' --model "$(dirname {input.model:q})"'
        " --scores {input.scores:q}"
        " {params.options}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule measure_placement:
    input:
        all_masks,
    output:
        f"{RESULTS}/metrics/{{model}}/placement.parquet",
    log:
        f"{LOGS}/metrics/{{model}}/placement.log",
    conda:
        "../envs/tables.yaml"
    params:
        order=all_masks,
        code=fingerprint("measure"),
    shell:
        "python -m uncouple measure placement {input:q}" " --output {output:q}" " > {log:q} 2>&1"
