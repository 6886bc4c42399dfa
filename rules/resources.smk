# What jobs ask for. A scheduler is told all of it; where there is none, threads and GPUs alone are shared out.
import math


def gpus_given():
    """N of --resources gpu=N; 0 where that is not said."""
    gpus = workflow.global_resources.get("gpu")
    return gpus.value or 0 if gpus else 0


def gpus_of_model(wildcards):
    """One; or all that are given where the model is spread over them, so that no other job has one meanwhile."""
    return EXPERIMENT.models[wildcards.model].device == "all" and gpus_given() or 1


def threads_of_gpu_job(wildcards):
    """All cores, or this job's share of them where --resources gpu=N lets N such jobs run side by side on this machine. A
    cluster's job has its cores to itself, and must say the same where it runs, where it is not told of N."""
    is_shared = gpus_given() and workflow.is_main_process and workflow.local_exec
    return max(1, workflow.cores // gpus_given()) if is_shared else workflow.cores


def weights_mb(record):
    """The size of a model's files."""
    return sum(p.stat().st_size for p in Path(record).parent.glob("*.safetensors")) // 10**6


def growing(ask):
    """A resource of a job, a number or a function of its wildcards and inputs, that doubles with each attempt: what a job
    that is submitted again ran out of may have been this."""
    return lambda wildcards, input, attempt: (ask(wildcards, input) if callable(ask) else ask) * 2 ** (attempt - 1)


def minutes(each, count=1):
    """The time of a job: so many minutes for each GB of the model's files and each of some variants, and half an hour."""
    return growing(lambda wildcards, input: 30 + math.ceil(each * count * weights_mb(input.model) / 1000))


@growing
def tuning_memory_mb(wildcards, input):
    """Weights, gradients and the optimizer's two moments in float32, the batch, and two GB to work in."""
    return 2000 + 12 * weights_mb(input.model)


@growing
def scoring_memory_mb(wildcards, input):
    """Weights and accumulators in float32 and the batch: about four times the files, and two GB to work in."""
    return 2000 + 4 * weights_mb(input.model)


@growing
def judge_memory_mb(wildcards, input):
    """The weights, in float32 at most twice the files, and two GB to work in."""
    return 2000 + 2 * weights_mb(record_of_judge(judge_of(wildcards)[0]))
