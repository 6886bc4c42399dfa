# What a run that failed says last: the steps that did, and how their logs end. Of a long run the errors themselves are
# far up.


def failed_steps(text):
    """From the log of a run: (rule, what was said of it, paths of its logs) of each step that failed and was not made good by
    another attempt."""
    failed, step = {}, None
    for line in text.splitlines():
        if found := re.match(r"Error in \w+ (\w+):", line):
            step = {"name": found[1], "message": "", "log": ""}
        elif found := re.match(r"Finished jobid: (\d+)", line):
            failed.pop(found[1], None)
        elif not line.startswith("    "):
            # What is told of a job that begins looks like what is told of one that failed.
            step = None
        elif step and (found := re.match(r"    (message|log|jobid): (.*)", line)):
            step[found[1]] = found[2]
            if found[1] == "jobid":
                failed[found[2]] = step
    return [
        (step["name"], step["message"], step["log"].partition(" (check log")[0].split(", ")) for step in failed.values()
    ]


def end_of(path, lines=3):
    """The last lines of a log; nothing of one that is empty or was never begun."""
    try:
        return [line for line in tail(Path(path)).splitlines() if line.strip()][-lines:]
    except OSError:
        return []


def tell_failures(log):
    """Say which steps of a run failed, from the paths of its logs."""
    steps = failed_steps("".join(Path(path).read_text(encoding="utf-8", errors="replace") for path in log))
    say(f"\nSteps that failed: {len(steps)}. What is done is kept; the next run makes what is missing.")
    for name, message, logs in steps:
        say(f"- {name}" if message == "None" else f"- {name}: {message.partition('For further')[0]}")
        for path in logs:
            if lines := end_of(path):
                say("\n    ".join([f"  {path} ends:", *lines]))
