# Tidy tables to figures and tables. The style file enters here and nowhere else.


localrules:
    draw_figure,
    draw_judge,
    write_examples,
    write_summary,
    write_selections,


rule draw_figure:
    input:
        table=lambda wildcards: PATHS.metrics(
            wildcards.figure if wildcards.figure in ("placement", "coupling") else "metrics"
        ),
        style=EXPERIMENT.figures.style,
    output:
        png=report(
            PATHS.figure(),
            caption="../workflow/report/figure.rst",
            category="{model}",
            labels={"result": "figure: {figure}"},
        ),
        svg=PATHS.figure(suffix="svg"),
    log:
        PATHS.log(PATHS.figure()),
    wildcard_constraints:
        figure="awareness|ability|hsic|language|agreement|placement|coupling",
    conda:
        "../envs/figures.yaml"
    params:
        noise=lambda wildcards: flags(noise=EXPERIMENT.noises) if wildcards.figure == "awareness" else "",
        code=fingerprint("figures"),
    shell:
        "python -m uncouple figures {wildcards.figure} {input.table:q}"
        " --model {wildcards.model:q}"
        " {params.noise}"
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
            caption="../workflow/report/judge.rst",
            category="judges",
            labels={"result": "figure: {judge}"},
        ),
        svg=PATHS.judge_figure(suffix="svg"),
    log:
        PATHS.log(PATHS.judge_figure()),
    conda:
        "../envs/figures.yaml"
    params:
        order=lambda wildcards: PATHS.trained_judges(wildcards.judge),
        code=fingerprint("figures"),
    shell:
        "python -m uncouple figures judge {input.classifiers:q}"
        " --style {input.style:q}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule write_examples:
    input:
        answers=all_answers,
        verdicts=all_verdicts,
    output:
        md=PATHS.table("examples", "md"),
        html=report(
            PATHS.table("examples", "html"),
            caption="../workflow/report/examples.rst",
            category="{model}",
            labels={"result": "answers side by side"},
        ),
    log:
        PATHS.log(PATHS.table("examples", "md")),
    conda:
        "../envs/figures.yaml"
    params:
        order=lambda wildcards: [*all_answers(wildcards), *all_verdicts(wildcards)],
        code=fingerprint("tables"),
    shell:
        "python -m uncouple tables examples"
        " --answers {input.answers:q}"
        " --verdicts {input.verdicts:q}"
        " --model {wildcards.model:q}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule write_summary:
    input:
        table=PATHS.metrics("metrics"),
        placement=[PATHS.metrics("placement")] if EXPERIMENT.masked else [],
    output:
        md=PATHS.table("summary", "md"),
        html=report(
            PATHS.table("summary", "html"),
            caption="../workflow/report/summary.rst",
            category="{model}",
            labels={"result": "table: summary"},
        ),
    log:
        PATHS.log(PATHS.table("summary", "md")),
    conda:
        "../envs/figures.yaml"
    params:
        options=lambda wildcards: flags(
            placement=PATHS.metrics("placement", wildcards.model) if EXPERIMENT.masked else None,
            noise=EXPERIMENT.noises,
        ),
        code=fingerprint("tables"),
    shell:
        "python -m uncouple tables summary {input.table:q}"
        " --model {wildcards.model:q}"
        " {params.options}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule write_selections:
    input:
        PATHS.metrics("coupling"),
    output:
        md=PATHS.table("selections", "md"),
        html=report(
            PATHS.table("selections", "html"),
            caption="../workflow/report/selections.rst",
            category="{model}",
            labels={"result": "table: selections"},
        ),
    log:
        PATHS.log(PATHS.table("selections", "md")),
    conda:
        "../envs/figures.yaml"
    params:
        code=fingerprint("tables"),
    shell:
        "python -m uncouple tables selections {input:q}"
        " --model {wildcards.model:q}"
        " --output {output:q}"
        " > {log:q} 2>&1"
