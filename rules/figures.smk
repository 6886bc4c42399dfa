# Tidy tables to figures and tables for people. The style file enters here and nowhere else.
import atexit
import shutil
import tempfile

from uncouple.reporting.parts import caption, find_figure, find_table, is_wanted, part_names


localrules:
    draw_figures,
    draw_judge,
    write_tables,


def measured():
    """What the experiment measures, as figures and tables ask for it (`parts.is_wanted`)."""
    found = {
        "agreement": len(JUDGES) > 1,
        "language": with_phrases(),
        "perplexity": "perplexity" in config["evaluation"],
        "ability": "ability" in config["evaluation"],
        "hsic": pairs_of_dimensions(),
        "placement": SUPPRESSED,
        "coupling": SUPPRESSED,
        "judges": trained_judges(),
    }
    return ["awareness", *(name for name, there in found.items() if there)]


def parts(kind, find):
    """The figures or tables that the experiment has: dict of name to module."""
    return {name: part for name in part_names(kind) if is_wanted(part := find(name), measured())}


FIGURES = {name: part for name, part in parts("figures", find_figure).items() if part.TABLE != "judge"}
TABLES = parts("tables", find_table)
# Snakemake takes captions from files alone, and these are docstrings: a word of one draws nothing.
CAPTIONS = Path(tempfile.mkdtemp(prefix="uncouple-captions-"))
atexit.register(shutil.rmtree, CAPTIONS, ignore_errors=True)


def caption_file(part):
    """The caption of a figure or table, as a file for the report."""
    path = CAPTIONS / f"{part.__name__}.rst"
    path.write_text(caption(part), encoding="utf-8")
    return str(path)


def drawn_from(kinds, model):
    """The files of some kinds that the experiment has of a model."""
    found = {
        "metrics": [f"{RESULTS}/metrics/{model}/metrics.parquet"],
        "placement": [f"{RESULTS}/metrics/{model}/placement.parquet"] if SUPPRESSED else [],
        "coupling": [f"{RESULTS}/metrics/{model}/coupling.parquet"] if SUPPRESSED else [],
        "answers": all_answers(model),
        "verdicts": all_verdicts(model),
    }
    return [path for kind, paths in found.items() if kind in kinds for path in paths]


def figure_sources(wildcards):
    return drawn_from({part.TABLE for part in FIGURES.values()}, wildcards.model)


def table_sources(wildcards):
    return drawn_from({kind for part in TABLES.values() for kind in part.TABLES}, wildcards.model)


def all_figures():
    """Every figure and table of the experiment."""
    names = [f"figures/{{model}}/{name}.png" for name in FIGURES] + [f"tables/{{model}}/{name}.md" for name in TABLES]
    judges = [f"{RESULTS}/figures/judges/{judge}.png" for judge in trained_judges()]
    return judges + [f"{RESULTS}/{name.format(model=model)}" for model in config["models"] for name in names]


# One job draws all: most of what a figure takes is the start of a process.
rule draw_figures:
    input:
        tables=figure_sources,
        style=from_root(config["figures"]["style"]),
    output:
        png=[
            report(
                f"{RESULTS}/figures/{{model}}/{name}.png",
                caption=caption_file(part),
                category="{model}",
                labels={"result": f"figure: {name}"},
            )
            for name, part in FIGURES.items()
        ],
        svg=[f"{RESULTS}/figures/{{model}}/{name}.svg" for name in FIGURES],
    log:
        f"{LOGS}/figures/{{model}}.log",
    conda:
        "../envs/figures.yaml"
    params:
        output=lambda wildcards: options(
            output=[f"{RESULTS}/figures/{wildcards.model}/{{figure}}.{suffix}" for suffix in ("png", "svg")]
        ),
        names=list(FIGURES),
        code=fingerprint("figures"),
    shell:
        "python -m uncouple figures {params.names:q}"
        " --from {input.tables:q}"
        " --model {wildcards.model:q}"
        " --style {input.style:q}"
        " {params.output}"
        " > {log:q} 2>&1"


rule draw_judge:
    input:
        classifiers=all_classifiers,
        style=from_root(config["figures"]["style"]),
    output:
        png=report(
            f"{RESULTS}/figures/judges/{{judge}}.png",
            caption=caption_file(find_figure("judge")),
            category="judges",
            labels={"result": "figure: {judge}"},
        ),
        svg=f"{RESULTS}/figures/judges/{{judge}}.svg",
    log:
        f"{LOGS}/figures/judges/{{judge}}.log",
    conda:
        "../envs/figures.yaml"
    params:
        order=all_classifiers,
        code=fingerprint("figures"),
    shell:
        "python -m uncouple figures judge"
        " --from {input.classifiers:q}"
        " --style {input.style:q}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule write_tables:
    input:
        table_sources,
    output:
        md=[f"{RESULTS}/tables/{{model}}/{name}.md" for name in TABLES],
        html=[
            report(
                f"{RESULTS}/tables/{{model}}/{name}.html",
                caption=caption_file(part),
                category="{model}",
                labels={"result": f"table: {name}"},
            )
            for name, part in TABLES.items()
        ],
    log:
        f"{LOGS}/tables/{{model}}.log",
    conda:
        "../envs/figures.yaml"
    params:
        output=lambda wildcards: options(
            output=[f"{RESULTS}/tables/{wildcards.model}/{{table}}.{suffix}" for suffix in ("md", "html")]
        ),
        names=list(TABLES),
        order=table_sources,
        code=fingerprint("tables"),
    shell:
        "python -m uncouple tables {params.names:q}"
        " --from {input:q}"
        " --model {wildcards.model:q}"
        " {params.output}"
        " > {log:q} 2>&1"
