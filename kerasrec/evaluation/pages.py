"""Pages from templates: how all of kerasrec's jinja2 templates are read."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def environment(package: str, *, html: bool = False) -> Environment:
    """Reads the templates of a package; a name that a template lacks is an error.

    Args:
        package: dotted name of the package, whose folder `templates` holds the files.
        html: whether values are escaped for HTML. Other files quote by rules of their own, and
            keep the line break at their end.
    """
    return Environment(
        loader=PackageLoader(package, "templates"),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not html,
    )
