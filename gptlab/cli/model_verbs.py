"""The verbs that need no training: show, list, probe."""

from argparse import ArgumentParser, Namespace

from gptlab.cli.verb import Result, Verb, add_overrides, result_console, user_path
from gptlab.config import ConfigError


def _show(args: Namespace) -> Result:
    from gptlab.cli.show import show

    return Result(show(args.overrides, result_console(args)))


SHOW = Verb(
    "a config without training it: differences from the baseline, the block, parameters, FLOPs, bytes",
    """  gptlab show preset=gpt2 norm=rmsnorm
  gptlab show preset=llama block=parallel
  gptlab show preset=gpt2 size=175b data.window=2048""",
    add_overrides,
    _show,
    json=True,
)


def _list_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="SLOT | use=FILE",
        help="slots or sections (default: all), and your component file",
    )


def _list(args: Namespace) -> Result:
    from gptlab.cli.list_options import describe_options, print_options
    from gptlab.config import registry
    from gptlab.config.compose import find_use
    from gptlab.config.overrides import parse

    overrides = parse(a for a in args.arguments if "=" in a)
    for override in overrides:
        if override.key_or_group != "use":
            raise ConfigError(
                f"{override.input_line}: does not change the list; give slots and use=FILE, or try `gptlab show`"
            )
    registry.load(find_use(overrides))
    options = describe_options([a for a in args.arguments if "=" not in a])
    print_options(options, result_console(args))
    return Result(options)


LIST = Verb(
    "slots, their options, and the settings of each",
    """  gptlab list
  gptlab list ffn
  gptlab list train eval""",
    _list_arguments,
    _list,
    json=True,
)


def _probe_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("arguments", nargs="*", metavar="experiment.yaml | key=value[,value...]", help="the arms")
    parser.add_argument("--png", type=user_path, metavar="FILE", help="write a picture; .pdf and .svg work too")


def _probe(args: Namespace) -> Result:
    from gptlab.cli.probe import probe

    return Result({"arms": probe(args.arguments, args.png, result_console(args))})


PROBE = Verb(
    "activations and gradients by layer at initialisation, of one arm or a grid, without training",
    """  gptlab probe placement=pre,post,double,output size.n_layer=12
  gptlab probe placement=pre,post init=xavier size.n_layer=12 --png probe.png""",
    _probe_arguments,
    _probe,
    json=True,
)
