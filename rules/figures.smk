# Tidy tables to figures and tables for people. The style file enters here and nowhere else.


localrules:
    draw_judge,
    measure_times,
    write_tables,


# A job a figure, so that one that is edited is drawn alone. What is of all models together lies where those of a model
# would, which is called `models`.
for name, part, model in DRAWN:

    rule:
        name:
            f"draw_figure_{name.replace('-', '_')}"
        input:
            tables=figure_sources(part, model),
            style=EXPERIMENT.figures.style,
        output:
            png=report(
                PATHS.figure(model, name),
                caption=caption_file(part),
                category=model.replace("models", "all models"),
                labels={"result": f"figure: {name}"},
            ),
            others=[PATHS.figure(model, name, suffix) for suffix in FIGURE_FORMS[1:]],
        log:
            PATHS.log(PATHS.figure(model, name)),
        localrule: True
        conda:
            "../envs/figures.yaml"
        params:
            name=name,
            model=lambda wildcards: flags(model=wildcards.get("model")),
            order=figure_sources(part, model),
            code=code_of("figures", parts=[f"reporting.figures.{name.partition('-')[0]}"]),
        shell:
            "python -m uncouple figures {params.name:q}"
            " --from {input.tables:q}"
            " {params.model}"
            " --style {input.style:q}"
            " --output {output:q}"
            " > {log:q} 2>&1"


rule draw_judge:
    input:
        classifiers=lambda wildcards: PATHS.trained_judges(wildcards.judge),
        style=EXPERIMENT.figures.style,
    output:
        png=report(
            PATHS.judge_figure(),
            caption=caption_file(find_figure("judge")),
            category="judges",
            labels={"result": "figure: {judge}"},
        ),
        others=[PATHS.judge_figure(suffix=suffix) for suffix in FIGURE_FORMS[1:]],
    log:
        PATHS.log(PATHS.judge_figure()),
    conda:
        "../envs/figures.yaml"
    params:
        order=lambda wildcards: PATHS.trained_judges(wildcards.judge),
        code=code_of("figures", parts=["reporting.figures.judge"]),
    shell:
        "python -m uncouple figures judge"
        " --from {input.classifiers:q}"
        " --style {input.style:q}"
        " --output {output:q}"
        " > {log:q} 2>&1"


# What Snakemake writes of time and memory is no input: a step must not run again for want of it, nor a figure for another
# time. It is read when all is made.
rule measure_times:
    input:
        lambda wildcards: PATHS.metrics("metrics", wildcards.model),
        lambda wildcards: PATHS.checkpoints([wildcards.model]),
    output:
        PATHS.metrics("times"),
    log:
        PATHS.log(PATHS.metrics("times")),
    conda:
        "../envs/tables.yaml"
    params:
        model=lambda wildcards: flags(model=wildcards.model),
        steps=lambda wildcards: shlex.join(PATHS.steps(wildcards.model)),
        code=code_of("measure", "times"),
    shell:
        "python -m uncouple measure times {params.steps}" " {params.model}" " --output {output:q}" " > {log:q} 2>&1"


rule write_tables:
    input:
        tables=table_sources,
        files=[from_root(path) for part in TABLES.values() for path in getattr(part, "FILES", ())],
    output:
        others=[PATHS.table(table=name, suffix=suffix) for name in TABLES for suffix in FORMS if suffix != "html"],
        html=[
            report(
                PATHS.table(table=name, suffix="html"),
                caption=caption_file(part),
                category="{model}",
                labels={"result": f"table: {name}"},
            )
            for name, part in TABLES.items()
        ],
    log:
        PATHS.log(PATHS.under("tables/{model}.md")),
    conda:
        "../envs/figures.yaml"
    params:
        model=lambda wildcards: flags(model=wildcards.model),
        output=lambda wildcards: flags(output=[PATHS.table(wildcards.model, suffix=suffix) for suffix in FORMS]),
        names=list(TABLES),
        order=table_sources,
        code=code_of("tables", parts=[f"reporting.tables.{name}" for name in TABLES]),
    shell:
        "python -m uncouple tables {params.names:q}"
        " --from {input.tables:q}"
        " {params.model}"
        " {params.output}"
        " > {log:q} 2>&1"


# What is of all models together.
if TABLES_ACROSS:

    use rule write_tables as write_tables_across with:
        input:
            tables=ALL_METRICS,
            files=[],
        output:
            others=[
                PATHS.table("models", name, suffix) for name in TABLES_ACROSS for suffix in FORMS if suffix != "html"
            ],
            html=[
                report(
                    PATHS.table("models", name, "html"),
                    caption=caption_file(part),
                    category="all models",
                    labels={"result": f"table: {name}"},
                )
                for name, part in TABLES_ACROSS.items()
            ],
        log:
            PATHS.log(PATHS.under("tables/models.md")),
        params:
            model="",
            output=lambda wildcards: flags(output=[PATHS.table("models", suffix=suffix) for suffix in FORMS]),
            names=list(TABLES_ACROSS),
            order=ALL_METRICS,
            code=code_of("tables", parts=[f"reporting.tables.{name}" for name in TABLES_ACROSS]),
