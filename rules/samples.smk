# Raw data to checked tables.


localrules:
    draw_samples,
    draw_ordinary,
    take_samples,
    take_replies,
    take_test_samples,
    draw_questions,


rule draw_samples:
    input:
        lambda wildcards: local_file(source_of(wildcards)),
    output:
        PATHS.samples(),
    log:
        PATHS.log(PATHS.samples()),
    conda:
        "../envs/tables.yaml"
    params:
        source=source_flags,
        content=row_content,
        code=code_of("samples"),
    shell:
        "python -m uncouple samples {params.source}"
        " --dimension {wildcards.dimension:q}"
        " --label {wildcards.label:q}"
        " --n {wildcards.n}"
        " --seed {wildcards.seed}"
        " --output {output:q}"
        " > {log:q} 2>&1"


# What variants are made with is told apart by its draws: a new variant with a draw of its own changes these samples.
rule draw_ordinary:
    input:
        local_file(EXPERIMENT.general),
    output:
        PATHS.ordinary(),
    log:
        PATHS.log(PATHS.ordinary()),
    conda:
        "../envs/tables.yaml"
    params:
        source=flags(EXPERIMENT.general),
        content=lambda wildcards: content_of(EXPERIMENT.general.path),
        draw=flags(n=EVALUATION.ordinary.n, seed=EVALUATION.ordinary.seed),
        apart=flags(apart=[f"{n}:{seed}" for n, seed in EXPERIMENT.general_draws] or None),
        code=code_of("samples"),
    shell:
        "python -m uncouple samples {params.source}"
        f" --dimension {GENERAL}"
        " {params.draw}"
        " {params.apart}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule take_samples:
    input:
        lambda wildcards: local_file(source_of(wildcards)),
    output:
        PATHS.all_samples(),
    log:
        PATHS.log(PATHS.all_samples()),
    conda:
        "../envs/tables.yaml"
    params:
        source=source_flags,
        content=row_content,
        label=lambda wildcards: flags(label=wildcards.label),
        code=code_of("samples"),
    shell:
        "python -m uncouple samples {params.source}"
        " --dimension {wildcards.dimension:q}"
        " {params.label}"
        " --output {output:q}"
        " > {log:q} 2>&1"


use rule take_samples as take_replies with:
    output:
        PATHS.all_samples(label="{replies}"),
    log:
        PATHS.log(PATHS.all_samples(label="{replies}")),
    params:
        source=source_flags,
        content=row_content,
        label=lambda wildcards: flags(label=(Dimension.replies | Ordinary.replies)[wildcards.replies]),
        code=code_of("samples"),


use rule take_samples as take_test_samples with:
    output:
        PATHS.test_samples(),
    log:
        PATHS.log(PATHS.test_samples()),
    params:
        source=source_flags,
        content=row_content,
        label=lambda wildcards: flags(label=test_of(wildcards).label),
        code=code_of("samples"),


rule draw_questions:
    input:
        lambda wildcards: local_file(source_of(wildcards)),
    output:
        PATHS.questions(),
    log:
        PATHS.log(PATHS.questions()),
    conda:
        "../envs/tables.yaml"
    params:
        source=source_flags,
        content=row_content,
        draw=question_draw,
        code=code_of("samples"),
    shell:
        "python -m uncouple samples {params.source}"
        " --questions"
        " --dimension {wildcards.dimension:q}"
        " {params.draw}"
        " --output {output:q}"
        " > {log:q} 2>&1"
