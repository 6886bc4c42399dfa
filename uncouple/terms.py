"""The names that configs, commands and files use, in one place that imports nothing."""

LABELS = ("safe", "unsafe")
MODULES = ("mlp", "attention", "all")
PROMPTS = ("auto", "chat", "bare", "published")
DTYPES = ("auto", "float32", "bfloat16", "float16")
SELECTIONS = ("coupled", "published", "A-only", "B-only", "union", "intersection", "random")
DUPLICATES = ("error", "drop", "keep")
ENGINES = ("transformers", "vllm")
JUDGES = ("phrases", "embedding", "causal")
# Of general ability, as lm-evaluation-harness calls them; the last two are our own.
TASKS = ("hellaswag", "race", "mmlu", "gpqa_main_zeroshot", "openbookqa", "boolq", "ag_news", "imdb")
# The base model as it is, with which every other variant is compared.
ORIGIN = "origin"
