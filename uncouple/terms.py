"""The names that configs, commands and files use, in one place that imports nothing."""

LABELS = ("safe", "unsafe")
MODULES = ("mlp", "attention", "all")
PROMPTS = ("auto", "chat", "bare", "published")
DTYPES = ("auto", "float32", "bfloat16", "float16")
SELECTIONS = ("coupled", "published", "A-only", "B-only", "union", "intersection", "random")
DUPLICATES = ("error", "drop", "keep")
ENGINES = ("transformers", "vllm")
JUDGES = ("phrases", "embedding", "causal")
# Of the file of a trained judge.
JUDGE_VERSION = 2
# Of general ability, as lm-evaluation-harness calls them; the last two are our own.
TASKS = ("hellaswag", "race", "mmlu", "gpqa_main_zeroshot", "openbookqa", "boolq", "ag_news", "imdb")
# The base model as it is, with which every other variant is compared.
ORIGIN = "origin"
# What `figures` draws and writes, each with what it shows.
FIGURES = {
    "awareness": "awareness and mean p(unsafe) by variant and their differences from the origin, from metrics",
    "ability": "perplexity and accuracy on tasks by variant, from metrics",
    "hsic": "HSIC between two dimensions' representations by layer, from metrics",
    "language": "how often cautionary phrases occur, from metrics",
    "agreement": "how often judges agree, from metrics",
    "placement": "where the suppressed weights are, from a placement table",
    "coupling": "how many weights couple, from a coupling table",
    "judge": "how good a trained judge is, from the files that `train` made",
}
TABLES = {
    "summary": "a table of the variants (.md, .html), from metrics",
    "selections": "a table of what each rule selects (.md, .html), from a coupling table",
    "examples": "answers side by side where verdicts differ (.md, .html), from answers and verdicts",
}
