# Base models, fetched once and checked, where there is a network: a cluster's nodes often have none.


localrules:
    fetch_model,
    fetch_judge,


rule fetch_model:
    input:
        local_model_files,
    output:
        PATHS.model(),
    log:
        PATHS.log(PATHS.model()),
    benchmark:
        PATHS.benchmark(PATHS.model())
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=8000,
    params:
        source=model_flags,
        content=source_content,
        code=code_of("fetch"),
    shell:
        "python -m uncouple fetch {params.source}" ' --output "$(dirname {output:q})"' " > {log:q} 2>&1"


use rule fetch_model as fetch_judge with:
    output:
        PATHS.judge_model(),
    log:
        PATHS.log(PATHS.judge_model()),
    benchmark:
        PATHS.benchmark(PATHS.judge_model())
