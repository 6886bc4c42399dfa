# Tidy tables to figures and tables. The style file enters here and nowhere else.


localrules:
    draw_figure,
    draw_judge,
    write_examples,
    write_summary,
    write_selections,


rule draw_figure:
    input:
        table=figure_table,
        style=from_root(config["figures"]["style"]),
    output:
        png=report(
            f"{RESULTS}/figures/{{model}}/{{figure}}.png",
            caption="../workflow/report/figure.rst",
            category="{model}",
            labels={"result": "figure: {figure}"},
        ),
        svg=f"{RESULTS}/figures/{{model}}/{{figure}}.svg",
    log:
        f"{LOGS}/figures/{{model}}/{{figure}}.log",
    wildcard_constraints:
        figure="awareness|ability|hsic|language|agreement|placement|coupling",
    conda:
        "../envs/figures.yaml"
    params:
        noise=lambda wildcards: shlex.join(["--noise", *NOISE]) if wildcards.figure == "awareness" else "",
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
        classifiers=expand(f"{RESULTS}/judges/{{{{judge}}}}/{{dimension}}.json", dimension=config["dimensions"]),
        style=from_root(config["figures"]["style"]),
    output:
        png=report(
            f"{RESULTS}/figures/judges/{{judge}}.png",
            caption="../workflow/report/judge.rst",
            category="judges",
            labels={"result": "figure: {judge}"},
        ),
        svg=f"{RESULTS}/figures/judges/{{judge}}.svg",
    log:
        f"{LOGS}/figures/judges/{{judge}}.log",
    conda:
        "../envs/figures.yaml"
    params:
        code=fingerprint("figures"),
    shell:
        "python -m uncouple figures judge {input.classifiers:q}"
        " --style {input.style:q}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule write_examples:
    input:
        answers=lambda wildcards: all_answers(wildcards.model),
        verdicts=lambda wildcards: all_verdicts(wildcards.model),
    output:
        md=f"{RESULTS}/tables/{{model}}/examples.md",
        html=report(
            f"{RESULTS}/tables/{{model}}/examples.html",
            caption="../workflow/report/examples.rst",
            category="{model}",
            labels={"result": "answers side by side"},
        ),
    log:
        f"{LOGS}/tables/{{model}}/examples.log",
    conda:
        "../envs/figures.yaml"
    params:
        code=fingerprint("figures"),
    shell:
        "python -m uncouple figures examples"
        " --answers {input.answers:q}"
        " --verdicts {input.verdicts:q}"
        " --model {wildcards.model:q}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule write_summary:
    input:
        table=f"{RESULTS}/metrics/{{model}}/metrics.parquet",
        placement=[f"{RESULTS}/metrics/{{model}}/placement.parquet"] if SUPPRESSED else [],
    output:
        md=f"{RESULTS}/tables/{{model}}/summary.md",
        html=report(
            f"{RESULTS}/tables/{{model}}/summary.html",
            caption="../workflow/report/summary.rst",
            category="{model}",
            labels={"result": "table: summary"},
        ),
    log:
        f"{LOGS}/tables/{{model}}/summary.log",
    conda:
        "../envs/figures.yaml"
    params:
        placement=lambda wildcards, input: shlex.join(["--placement", *input.placement]) if input.placement else "",
        noise=NOISE,
        code=fingerprint("figures"),
    shell:
        "python -m uncouple figures summary {input.table:q}"
        " --model {wildcards.model:q}"
        " {params.placement}"
        " --noise {params.noise:q}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule write_selections:
    input:
        f"{RESULTS}/metrics/{{model}}/coupling.parquet",
    output:
        md=f"{RESULTS}/tables/{{model}}/selections.md",
        html=report(
            f"{RESULTS}/tables/{{model}}/selections.html",
            caption="../workflow/report/selections.rst",
            category="{model}",
            labels={"result": "table: selections"},
        ),
    log:
        f"{LOGS}/tables/{{model}}/selections.log",
    conda:
        "../envs/figures.yaml"
    params:
        code=fingerprint("figures"),
    shell:
        "python -m uncouple figures selections {input:q}"
        " --model {wildcards.model:q}"
        " --output {output:q}"
        " > {log:q} 2>&1"
