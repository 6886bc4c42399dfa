# Base models, fetched once and checked, where there is a network: a cluster's nodes often have none.


localrules:
    fetch_model,
    fetch_judge,


rule fetch_model:
    input:
        local_model_files,
    output:
        f"{RESULTS}/models/{{model}}/uncouple.json",
    log:
        f"{LOGS}/models/{{model}}.log",
    benchmark:
        f"{BENCHMARKS}/models/{{model}}.tsv"
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=8000,
    params:
        source=model_flags,
        content=source_content,
        code=fingerprint("fetch"),
    shell:
        "python -m uncouple fetch {params.source}" ' --output "$(dirname {output:q})"' " > {log:q} 2>&1"


rule fetch_judge:
    input:
        local_model_files,
    output:
        f"{RESULTS}/judges/{{judge}}/model/uncouple.json",
    log:
        f"{LOGS}/judges/{{judge}}/model.log",
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=8000,
    params:
        source=model_flags,
        content=source_content,
        code=fingerprint("fetch"),
    shell:
        "python -m uncouple fetch {params.source}" ' --output "$(dirname {output:q})"' " > {log:q} 2>&1"
