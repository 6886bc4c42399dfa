"""Configs: checked against the schema and against themselves before any job starts, with defaults filled in."""

import copy
import difflib
import itertools
import json
import re
from pathlib import Path

from uncouple.errors import UncoupleError
from uncouple.terms import ORIGIN

# Kinds of variants that have nothing but their kind, in the order of the figures.
UNSUPPRESSED = ("origin", "noise")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
BOUNDS = {"exclusiveMinimum": "above", "minimum": "at least", "maximum": "at most"}


def resolve(config, schema, root):
    """A config as the workflow uses it: nulls taken out, sweeps spread, defaults filled in, everything checked.

    Args:
        config: dict, as loaded from YAML.
        schema: the JSON schema as a dict.
        root: the folder that relative paths start from.

    Returns:
        dict, a new one.

    Raises:
        UncoupleError: one line for each fault, naming the key and what is allowed.
    """
    config = _without_nulls(config)
    if strange := list(_strange_texts(config)):
        raise UncoupleError("the config is not right:\n" + "\n".join(f"  {fault}" for fault in strange))
    variants = config.get("variants")
    if isinstance(variants, dict):
        config["variants"] = variants = spread_sweeps(variants)
    config = with_defaults(schema, config, schema)
    if isinstance(variants, dict):
        # The defaults are those of a suppressed variant; an origin has nothing but its kind.
        config["variants"] |= {name: v for name, v in variants.items() if _kind(v) in UNSUPPRESSED}
    faults = _schema_faults(config, schema) or _own_faults(config, Path(root))
    if faults:
        raise UncoupleError("the config is not right:\n" + "\n".join(f"  {fault}" for fault in faults))
    return config


def spread_sweeps(variants):
    """Variants with each list of values made into one variant a value.

    `{"s": {"ratio": [1e-5, 1e-4]}}` becomes `s.ratio-1e-05` and `s.ratio-0.0001`. `dimensions` is itself a list,
    so it sweeps as a list of lists.
    """
    spread = {}
    for name, variant in variants.items():
        swept = {k: v for k, v in variant.items() if _is_sweep(k, v)} if isinstance(variant, dict) else {}
        for values in itertools.product(*swept.values()):
            parts = [f"{k}-{'+'.join(v) if isinstance(v, list) else v}" for k, v in zip(swept, values, strict=True)]
            chosen = dict(zip(swept, values, strict=True))
            spread[".".join([name, *parts])] = variant | chosen if chosen else variant
    # An experiment's own keys come before those of config.yaml; a figure begins with the origin all the same.
    first = {k: v for kind in UNSUPPRESSED for k, v in spread.items() if _kind(v) == kind}
    return first | {k: v for k, v in spread.items() if k not in first}


def with_defaults(schema, value, root):
    """A copy of `value` with the schema's defaults where a key is missing."""
    schema = _follow(schema, root)
    if isinstance(value, dict):
        filled = dict(value)
        for key, sub in schema.get("properties", {}).items():
            sub = _follow(sub, root)
            if key not in filled and "default" in sub:
                filled[key] = copy.deepcopy(sub["default"])
            elif key not in filled and sub.get("type") == "object" and _all_default(sub):
                filled[key] = {}
            if key in filled:
                filled[key] = with_defaults(sub, filled[key], root)
        for sub in schema.get("patternProperties", {}).values():
            for key in filled:
                filled[key] = with_defaults(sub, filled[key], root)
        return filled
    # JSON schema takes 64.0 for whole, the commands do not.
    whole = schema.get("type") == "integer" and isinstance(value, float) and value.is_integer()
    return int(value) if whole else value


def _all_default(schema):
    """Whether a section may be left out: each key has a default, or is a definition, which may be left out itself."""
    subs = schema.get("properties", {}).values()
    return bool(subs) and all("default" in sub or "$ref" in sub or _all_default(sub) for sub in subs)


def _kind(variant):
    return variant.get("kind") if isinstance(variant, dict) else None


def _strange_texts(value, where=""):
    """Names that YAML takes for a number, a boolean or a date, and texts that no path may have in it."""
    if isinstance(value, str) and CONTROL.search(value):
        yield f"{where}: {value!r} has a line break, or another control character, in it; write it in one line"
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if isinstance(value, dict) and not isinstance(key, str):
            yield f"{where or 'top level'}: the name {key!r} is not text; put it in quotes"
        elif isinstance(value, dict) and CONTROL.search(key):
            yield f"{where or 'top level'}: the name {key!r} has a line break, or another control character, in it"
        yield from _strange_texts(inner, f"{where}.{key}" if where else str(key))


def _is_sweep(key, value):
    return isinstance(value, list) and bool(value) and (key != "dimensions" or any(isinstance(v, list) for v in value))


def _without_nulls(value):
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return value


def _follow(schema, root):
    if "$ref" in schema:
        found = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return found
    return schema


def _schema_faults(config, schema):
    from jsonschema import Draft202012Validator

    errors = Draft202012Validator(schema).iter_errors(config)
    return [_tell(error) for error in sorted(errors, key=lambda e: [str(p) for p in e.absolute_path])]


def _tell(error):
    """One fault, in the words of who wrote the config."""
    where = ".".join(map(str, error.absolute_path)) or "top level"
    if error.validator == "additionalProperties":
        allowed = list(error.schema.get("properties", {}))
        patterns = list(error.schema.get("patternProperties", {}))
        unknown = [k for k in error.instance if k not in allowed]
        if patterns:
            unknown = [k for k in unknown if not any(re.search(p, str(k)) for p in patterns)]
            names = ", ".join(map(repr, unknown))
            return f"{where}: the name {names} is not allowed here (it must match {patterns[0]})"
        close = {key: difflib.get_close_matches(key, allowed, 1) for key in unknown}
        told = [f"{key!r}" + (f"; did you mean {near[0]!r}?" if near else "") for key, near in close.items()]
        return f"{where}: unknown key {', '.join(told)} (allowed: {', '.join(allowed)})"
    if error.validator == "enum":
        return f"{where}: {error.instance!r} is not known (allowed: {', '.join(map(str, error.validator_value))})"
    if error.validator == "type":
        number = isinstance(error.instance, str) and "number" in str(error.validator_value)
        hint = "; write small numbers as 1.0e-5, YAML takes 1e-5 for text" if number else ""
        return f"{where}: {json.dumps(error.instance, default=str)} is not of type {error.validator_value}{hint}"
    if error.validator == "required":
        # There is one such error for each missing key, and only its message says which.
        return f"{where}: the key {error.message.removesuffix(' is a required property')} is missing"
    if error.validator in BOUNDS:
        allowed = " and ".join(f"{word} {error.schema[key]}" for key, word in BOUNDS.items() if key in error.schema)
        return f"{where}: {error.instance} is out of range (allowed: {allowed})"
    if error.validator == "pattern":
        return f"{where}: {error.instance!r} must match {error.validator_value}"
    return f"{where}: {error.message}"


def _own_faults(config, root):
    """What a schema cannot say: files that are there, keys that go together, values that other keys bound."""
    faults = []
    for name, model in config["models"].items():
        where = f"models.{name}"
        faults += _one_of(where, model, {"wheel": ["sha256", "file"], "path": [], "hub": ["revision"]})
        if "path" in model and not (root / model["path"]).is_dir():
            faults.append(f"{where}.path: there is no folder {model['path']}")
    for name, dimension in config["dimensions"].items():
        for key in ("safe", "unsafe", "refusals", "compliances", "questions"):
            if key in dimension:
                faults += _source_faults(f"dimensions.{name}.{key}", dimension[key], root)
        for number, test in enumerate(dimension.get("test", [])):
            faults += _source_faults(f"dimensions.{name}.test.{number}.source", test["source"], root)
        for key, other in (("refusals", "compliances"), ("compliances", "refusals")):
            if key in dimension and other not in dimension:
                faults.append(f"dimensions.{name}.{other}: missing, and {key} are of no use without")
        if "phrases" in dimension:
            faults += _file_faults(f"dimensions.{name}.phrases", dimension["phrases"], root)
    faults += _source_faults("general", config["general"], root)
    faults += _file_faults("figures.style", config["figures"]["style"], root)
    keep = config["scoring"]["keep"]
    for ratio in config["figures"]["ratios"]:
        if ratio > keep:
            faults.append(f"figures.ratios: {ratio:g} is above scoring.keep, {keep:g}")
    for name, judge in config["judges"].items():
        faults += _judge_faults(f"judges.{name}", judge, root)
    for name in config["evaluation"]["judges"]:
        faults += _choice_faults(name, config)
    faults += _measure_faults(config["evaluation"], root) + _hsic_faults(config)
    for name, variant in config["variants"].items():
        faults += _variant_faults(f"variants.{name}", variant, config)
    return faults


def _variant_faults(where, variant, config):
    faults = []
    if variant["kind"] != "suppress":
        faults = [f"{where}.{key}: {variant['kind']} has no such key" for key in variant if key != "kind"]
        if variant["kind"] == "origin" and where != f"variants.{ORIGIN}":
            faults.append(f"{where}: the variant of the kind origin must be called {ORIGIN}")
        evaluation = config["evaluation"]
        if variant["kind"] == "noise" and evaluation["engine"] == "transformers" and evaluation["batch_size"] == 1:
            faults.append(
                f"{where}: it asks in other batches, and with evaluation.batch_size 1 there are none; raise that, or "
                "take the variant away (null)"
            )
        return faults
    keep, scored = config["scoring"]["keep"], config["scoring"]["module"]
    for key in ("ratio", "general_ratio"):
        if not variant.get(key, 0) <= keep:
            faults.append(
                f"{where}.{key}: {variant[key]:g} is above scoring.keep, {keep:g}; raise that, which scores anew"
            )
    if scored not in ("all", variant["module"]):
        faults.append(f"{where}.module: {variant['module']} is not scored (scoring.module is {scored})")
    dimensions = variant.get("dimensions", list(config["dimensions"]))
    if len(dimensions) < 2:
        faults.append(f"{where}: two dimensions or more are needed, and there is only {', '.join(dimensions)}")
    for dimension in dimensions:
        if dimension not in config["dimensions"]:
            faults.append(
                f"{where}.dimensions: {dimension!r} is not among dimensions ({', '.join(config['dimensions'])})"
            )
        elif variant["label"] not in config["dimensions"][dimension]:
            faults.append(f"{where}.label: dimensions.{dimension} has no {variant['label']} samples")
    return faults


def _judge_faults(where, judge, root):
    if judge["kind"] == "phrases":
        wanted = {"kind", "batch_size", "dtype"}
        return [f"{where}.{key}: a judge of the kind phrases has no such key" for key in judge if key not in wanted]
    faults = _one_of(where, judge, {"wheel": ["sha256", "file"], "path": [], "hub": ["revision"]})
    if "path" in judge and not (root / judge["path"]).is_dir():
        faults.append(f"{where}.path: there is no folder {judge['path']}")
    if judge.get("template", "card") != "card":
        faults += _file_faults(f"{where}.template", judge["template"], root)
    if "template" in judge and judge["kind"] != "causal":
        faults.append(f"{where}.template: only a judge of the kind causal has it")
    return faults


def _choice_faults(name, config):
    """What a judge that is used needs of the dimensions."""
    if name not in config["judges"]:
        return [f"evaluation.judges: {name!r} is not among judges ({', '.join(config['judges'])})"]
    needed = {"phrases": ["phrases"], "embedding": ["safe", "unsafe"], "causal": []}[config["judges"][name]["kind"]]
    return [
        f"dimensions.{dimension}.{key}: missing, and the judge {name} needs it"
        for dimension, values in config["dimensions"].items()
        for key in needed
        if key not in values
    ]


def _measure_faults(evaluation, root):
    faults, perplexity = [], evaluation.get("perplexity")
    if perplexity is not None:
        faults += _one_of("evaluation.perplexity", perplexity, {"path": [], "hub": ["revision", "split"]})
        if "path" in perplexity:
            faults += _file_faults("evaluation.perplexity.path", perplexity["path"], root)
    for task, path in evaluation.get("ability", {}).get("tasks", {}).items():
        if path != "hub":
            faults += _file_faults(f"evaluation.ability.tasks.{task}", path, root)
    return faults


def _hsic_faults(config):
    """HSIC is between the safe samples of each two dimensions."""
    dimensions = config["dimensions"]
    if len(dimensions) < 2 or not config["evaluation"]["hsic"]["n"]:
        return []
    return [
        f"dimensions.{name}.safe: missing, and HSIC needs it; set evaluation.hsic.n to 0 to measure none"
        for name, dimension in dimensions.items()
        if "safe" not in dimension
    ]


def _source_faults(where, source, root):
    faults = _one_of(where, source, {"path": [], "hub": ["revision", "split"]})
    return faults + (_file_faults(f"{where}.path", source["path"], root) if "path" in source else [])


def _file_faults(where, path, root):
    return [] if (root / path).is_file() else [f"{where}: there is no file {path}"]


def _one_of(where, given, places):
    """Exactly one place to take something from, with the keys that go with it."""
    found = [place for place in places if place in given]
    if len(found) != 1:
        what = f"both {' and '.join(found)} are given; set one of them to null" if found else "none is given"
        return [f"{where}: give one of {', '.join(places)} ({what})"]
    return [f"{where}: {found[0]} needs the key {key!r} too" for key in places[found[0]] if key not in given]
