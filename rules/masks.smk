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
        dimensions=lambda wildcards: variant_dimensions(wildcards.variant),
        select=variant_value("select"),
        ratio=variant_value("ratio"),
        general_ratio=general_ratio,
        module=variant_value("module"),
        seed=variant_value("select_seed"),
        code=fingerprint("mask"),
    shell:
        "python -m uncouple mask"
        ' --model "$(dirname {input.model:q})"'
        " --scores {input.scores:q}"
        " --dimensions {params.dimensions:q}"
        " --select {params.select:q}"
        " --ratio {params.ratio}"
        " --general-ratio {params.general_ratio}"
        " --module {params.module:q}"
        " --seed {params.seed}"
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
        dimensions=lambda wildcards: variant_dimensions(coupling_variant()),
        module=lambda wildcards: config["variants"][coupling_variant()]["module"],
        ratios=lookup(dpath="figures/ratios", within=config),
        code=fingerprint("measure"),
    shell:
        "python -m uncouple measure coupling"
        ' --model "$(dirname {input.model:q})"'
        " --scores {input.scores:q}"
        " --dimensions {params.dimensions:q}"
        " --module {params.module:q}"
        " --ratios {params.ratios}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule measure_placement:
    input:
        lambda wildcards: [f"{RESULTS}/masks/{wildcards.model}/{variant}.parquet" for variant in SUPPRESSED],
    output:
        f"{RESULTS}/metrics/{{model}}/placement.parquet",
    log:
        f"{LOGS}/metrics/{{model}}/placement.log",
    conda:
        "../envs/tables.yaml"
    params:
        code=fingerprint("measure"),
    shell:
        "python -m uncouple measure placement {input:q}" " --output {output:q}" " > {log:q} 2>&1"
