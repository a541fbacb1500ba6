"""`deploy`: writes the files that an operator of TF Serving needs for a model.

Nothing is trained or exported here, and no version is touched.
"""

import contextlib
import hashlib
import json
import logging
import os
import shlex
from pathlib import Path
from urllib.parse import quote

from kerasrec.backend import whole_file
from kerasrec.evaluation import pages
from kerasrec.versions import folders
from kerasrec.versions.warmup import example_inputs, read_signatures

log = logging.getLogger(__name__)

#: file -> its template
FILES = {
    "models.config": "models.config.j2",
    "batching_parameters.txt": "batching_parameters.txt.j2",
    "monitoring.config": "monitoring.config.j2",
    "docker-compose.yml": "docker-compose.yml.j2",
    "kubernetes.yaml": "kubernetes.yaml.j2",
    "predict.sh": "predict.sh.j2",
    "predict.py": "predict.py.j2",
    "README.md": "deployment.md.j2",
}
#: signatures that predict.sh asks for, where the version has them
_ASKED = ("serving_default", "recommend_by_text", "similar")
_HERE = ("localhost", "127.0.0.1", "::1")


def deploy(
    model: str | Path, folder: str | Path, *, host_name: str = "localhost", force: bool = False
) -> list[Path]:
    """Writes a deployment folder for a model.

    Labels of `labels.json` become version labels of the server, as far as their versions exist.
    With labels exactly the labelled versions are served; without any, the largest, and each new
    version takes its place by itself.

    Args:
        model: `saved_models/NAME`, or a version folder, which is then the only one served.
        folder: where to write; made if missing.
        host_name: under which clients reach the server. Anything but this machine makes docker
            compose open the ports to others too.
        force: True replaces files that differ; without it they stop everything.

    Returns:
        List of Path, the files.

    Raises:
        ArtifactError: no such model or version.
        FileExistsError: files that differ, without `force`; nothing is written then.
        ValueError: a host name that is none, or a folder inside that of a model.
    """
    check_folder(folder)
    version = folders.find_version(model)
    _check_host(host_name)
    alone = version.resolve() == Path(model).resolve()
    texts = _render(version, _served(version, alone), host_name)
    folder = Path(folder)
    differing = [
        name
        for name, text in texts.items()
        if (folder / name).exists() and (folder / name).read_bytes() != text.encode()
    ]
    if differing and not force:
        raise FileExistsError(
            f"{folder} has other files of these names already: {', '.join(differing)}. Choose "
            "another folder, or replace them with --force (force=True)."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        _write(folder / name, text)
    return [folder / name for name in texts]


def check_folder(folder: str | Path) -> None:
    """Raises unless deployment files may go to `folder`: no file, and no part of any model."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"--deploy needs a folder; {folder} is a file. Choose another.")
    whole = folder.resolve()
    for around in (whole, *whole.parents):
        with contextlib.suppress(PermissionError):  # a folder above that may not be listed
            inside = [around, *(around / str(n) for n in folders.versions(around))]
            if any((place / folders.MANIFEST).is_file() for place in inside):
                raise ValueError(
                    f"--deploy needs a folder of its own; {folder} is in the model {around}, whose "
                    "folder holds versions only. Choose another, such as deployment."
                )


def _check_host(host_name):
    fine = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.:_")
    if not host_name or not set(host_name) <= fine:
        raise ValueError(
            "--host-name takes the name or address of a machine, such as rec.example.com. "
            f"Received: {host_name!r}."
        )


def _served(version, alone):
    """`(versions to serve by number or None for the largest, label -> version)`."""
    base = version.parent
    if alone:
        return [int(version.name)], {}
    known, labels = folders.versions(base), folders.read_labels(base)
    missing = {label: number for label, number in labels.items() if number not in known}
    for label, number in missing.items():
        log.warning("label %s names version %s, which is not there: left out", label, number)
    labels = {label: labels[label] for label in sorted(labels) if label not in missing}
    return (sorted(set(labels.values())) or None), labels


def _render(version, served, host_name):
    """File name -> text."""
    numbers, labels = served
    base = version.parent.resolve()
    frame, manifest = folders.read_catalogue(version), folders.read_manifest(version)
    signatures = read_signatures(version)
    asked = [
        {"signature": name, "body": _body(name, example_inputs(signatures[name][0], frame))}
        for name in _ASKED
        if name in signatures
    ]
    some = frame.head(3)
    templates = pages.environment("kerasrec.versions")
    templates.filters.update(
        text=lambda value: json.dumps(str(value), ensure_ascii=False),  # YAML and text protos too
        dollars=lambda value: str(value).replace("$", "$$"),
        shell=lambda value: shlex.quote(str(value)),
        url=lambda value: quote(str(value), safe=""),
        py=repr,
    )
    # a host name with colons is an IPv6 address
    host = f"[{host_name}]" if ":" in host_name else host_name
    values = {
        "name": base.name,
        "base": base,
        "versions": numbers,
        "labels": labels,
        "label": "stable" if "stable" in labels else None,
        "host": host,
        "bind": "127.0.0.1" if host_name in _HERE else "0.0.0.0",
        "threads": os.cpu_count() or 1,
        "signatures": signatures,
        "asked": asked,
        "ids": some["item_id"].tolist(),
        "titles": some["title"].tolist(),
        "by_text": "recommend_by_text" in signatures,
        "manifest": manifest,
        "kubernetes_name": _kubernetes_name(base.name),
    }
    return {
        name: templates.get_template(template).render(values) for name, template in FILES.items()
    }


def _body(signature, inputs):
    return json.dumps({"signature_name": signature, "inputs": inputs}, ensure_ascii=False)


def _kubernetes_name(name):
    """A name as Kubernetes takes it: lower-case letters, digits and dashes, 63 at most.

    Where that changes or cuts a model's name, a digest keeps two models apart.
    """
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower()).strip("-")
    full = f"tfserving-{plain}".strip("-")
    if plain == name and len(full) <= 63:
        return full
    return f"{full[:54].strip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _write(path, text):
    """Write beside and rename: the server polls some of these files."""
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")
        beside.chmod(0o755 if path.suffix == ".sh" else 0o644)
