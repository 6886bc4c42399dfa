# Raw data to checked tables.


localrules:
    draw_samples,
    take_samples,
    take_replies,
    take_test_samples,
    draw_questions,


rule draw_samples:
    input:
        raw_file,
    output:
        f"{RESULTS}/samples/{{dimension}}-{{label}}-n{{n}}-seed{{seed}}.parquet",
    log:
        f"{LOGS}/samples/{{dimension}}-{{label}}-n{{n}}-seed{{seed}}.log",
    conda:
        "../envs/tables.yaml"
    params:
        source=source_flags,
        code=fingerprint("samples"),
    shell:
        "python -m uncouple samples {params.source}"
        " --dimension {wildcards.dimension:q}"
        " --label {wildcards.label:q}"
        " --n {wildcards.n}"
        " --seed {wildcards.seed}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule take_samples:
    input:
        raw_file,
    output:
        f"{RESULTS}/samples/{{dimension}}-{{label}}-all.parquet",
    log:
        f"{LOGS}/samples/{{dimension}}-{{label}}-all.log",
    conda:
        "../envs/tables.yaml"
    params:
        source=source_flags,
        label=lambda wildcards: options(label=wildcards.label),
        code=fingerprint("samples"),
    shell:
        "python -m uncouple samples {params.source}"
        " --dimension {wildcards.dimension:q}"
        " {params.label}"
        " --output {output:q}"
        " > {log:q} 2>&1"


use rule take_samples as take_replies with:
    output:
        f"{RESULTS}/samples/{{dimension}}-{{replies}}-all.parquet",
    log:
        f"{LOGS}/samples/{{dimension}}-{{replies}}-all.log",
    params:
        source=source_flags,
        label=lambda wildcards: options(label="safe" if wildcards.replies == "refusals" else "unsafe"),
        code=fingerprint("samples"),


rule take_test_samples:
    input:
        raw_file,
    output:
        f"{RESULTS}/samples/tests/{{dimension}}-{{test}}.parquet",
    log:
        f"{LOGS}/samples/tests/{{dimension}}-{{test}}.log",
    conda:
        "../envs/tables.yaml"
    params:
        source=source_flags,
        label=lambda wildcards: options(label=test_of(wildcards)["label"]),
        code=fingerprint("samples"),
    shell:
        "python -m uncouple samples {params.source}"
        " --dimension {wildcards.dimension:q}"
        " {params.label}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule draw_questions:
    input:
        raw_file,
    output:
        f"{RESULTS}/samples/questions/{{dimension}}.parquet",
    log:
        f"{LOGS}/samples/questions/{{dimension}}.log",
    conda:
        "../envs/tables.yaml"
    params:
        source=source_flags,
        draw=lambda wildcards: options(n=config["evaluation"]["questions"] or None, seed=config["evaluation"]["seed"]),
        code=fingerprint("samples"),
    shell:
        "python -m uncouple samples {params.source}"
        " --questions"
        " --dimension {wildcards.dimension:q}"
        " {params.draw}"
        " --output {output:q}"
        " > {log:q} 2>&1"
