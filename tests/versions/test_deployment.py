"""The deployment folder, checked with TF Serving's own definitions and run against a server."""

import ast
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from tensorflow_serving.config import model_server_config_pb2

import kerasrec
from kerasrec.cli.entry import main
from kerasrec.versions import folders
from kerasrec.versions.deployment import FILES, deploy
from kerasrec.versions.derive import export_again
from kerasrec.versions.warmup import read_signatures


@pytest.fixture
def toy(exported_version, tmp_path):
    return shutil.copytree(exported_version, tmp_path / "models" / "toy")


@pytest.fixture(scope="module")
def two(exported_version, tmp_path_factory):
    """A model of two versions, 2 stable and 1 canary."""
    toy = shutil.copytree(exported_version, tmp_path_factory.mktemp("two") / "toy")
    export_again(toy, k=5)
    folders.write_label(toy, "stable", 2)
    folders.write_label(toy, "canary", 1)
    return toy


def parsed(path, message):
    from google.protobuf import text_format

    return text_format.Parse(path.read_text(encoding="utf-8"), message)


def model_config(folder):
    parts = parsed(folder / "models.config", model_server_config_pb2.ModelServerConfig())
    (config,) = parts.model_config_list.config
    return config


def text_of(folder):
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.*")}


# --- what is written ---


def test_without_labels_the_largest_version_is_served(toy, tmp_path):
    files = deploy(toy, tmp_path / "here")
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == sorted(FILES)
    assert sorted(path.name for path in files) == sorted(FILES)
    config = model_config(tmp_path / "here")
    assert (config.name, config.base_path) == ("toy", "/models/toy")
    assert config.model_platform == "tensorflow" and not config.version_labels
    assert config.model_version_policy.latest.num_versions == 1


def test_labels_become_those_of_the_server(two, tmp_path):
    deploy(two, tmp_path / "here")
    config = model_config(tmp_path / "here")
    assert dict(config.version_labels) == {"stable": 2, "canary": 1}
    assert list(config.model_version_policy.specific.versions) == [1, 2]
    text = text_of(tmp_path / "here")
    assert "/v1/models/toy/labels/stable" in text["predict.sh"]
    assert "label `canary` = 1" in text["README.md"]


def test_a_label_of_a_version_that_is_gone_is_left_out(two, tmp_path, caplog):
    toy = shutil.copytree(two, tmp_path / "toy")
    shutil.rmtree(toy / "1")
    deploy(toy, tmp_path / "here")
    assert dict(model_config(tmp_path / "here").version_labels) == {"stable": 2}
    assert "label canary names version 1, which is not there" in caplog.text


def test_a_version_alone(two, tmp_path):
    deploy(two / "1", tmp_path / "here")
    config = model_config(tmp_path / "here")
    assert list(config.model_version_policy.specific.versions) == [1]
    assert not config.version_labels


def message_of(fields):
    """A message of these fields `(number, name, type)`: Python's package lacks the real one.

    A type is a protobuf scalar, or a list of fields for a message in it.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="served.proto", syntax="proto3")

    def add(name, fields):
        message = file.message_type.add(name=name)
        for number, field, kind in fields:
            inner = isinstance(kind, list)
            if inner:
                add(f"{name}_{field}", kind)
            message.field.add(
                name=field,
                number=number,
                label="LABEL_OPTIONAL",
                type="TYPE_MESSAGE" if inner else f"TYPE_{kind.upper()}",
                type_name=f".{name}_{field}" if inner else None,
            )

    add("Whole", fields)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Whole"))()


def test_the_other_configs_have_the_servers_fields(toy, tmp_path):
    """Fields of monitoring_config.proto and of session_bundle_config.proto, BatchingParameters."""
    deploy(toy, tmp_path)
    monitoring = [(1, "prometheus_config", [(1, "enable", "bool"), (2, "path", "string")])]
    config = parsed(tmp_path / "monitoring.config", message_of(monitoring))
    assert config.prometheus_config.enable
    assert config.prometheus_config.path == "/monitoring/prometheus/metrics"
    number = [(1, "value", "int64")]
    names = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    batching = [(place, name, number) for place, name in enumerate(names, 1)]
    batching.append((7, "pad_variable_length_inputs", "bool"))
    config = parsed(tmp_path / "batching_parameters.txt", message_of(batching))
    assert all(getattr(config, name).value > 0 for name in names)
    assert config.pad_variable_length_inputs


def test_compose_mounts_read_only_and_stays_on_this_machine(toy, tmp_path):
    deploy(toy, tmp_path)
    (service,) = yaml.safe_load((tmp_path / "docker-compose.yml").read_text())["services"].values()
    assert service["image"].startswith("${TFSERVING_IMAGE:-tensorflow/serving")
    assert service["ports"] == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
    mounts = {mount["target"]: mount for mount in service["volumes"]}
    assert mounts["/models/toy"]["source"] == str(toy.resolve())
    assert all(mount["read_only"] for mount in mounts.values())
    flags = dict(flag.removeprefix("--").split("=") for flag in service["command"])
    for name in ("model_config_file", "monitoring_config_file"):
        place, _, file = flags[name].rpartition("/")
        assert mounts[place]["source"] == "." and (tmp_path / file).is_file()
    assert flags["allow_version_labels_for_unavailable_models"] == "true"
    assert "enable_batching" not in flags  # its padding would repeat items


def test_host_name(toy, tmp_path):
    deploy(toy, tmp_path, host_name="rec.example.com")
    text = text_of(tmp_path)
    ports = yaml.safe_load(text["docker-compose.yml"])["services"]["tfserving"]["ports"]
    assert ports == ["0.0.0.0:8500:8500", "0.0.0.0:8501:8501"]
    assert "://rec.example.com:8501" in text["predict.sh"]
    assert (
        '"rec.example.com:8500"' in text["predict.py"]
        or "'rec.example.com:8500'" in text["predict.py"]
    )


def test_kubernetes_example_fits_together(toy, tmp_path):
    deploy(toy, tmp_path)
    parts = list(yaml.safe_load_all((tmp_path / "kubernetes.yaml").read_text()))
    deployment, service = parts
    assert [part["kind"] for part in parts] == ["Deployment", "Service"]
    pod = deployment["spec"]["template"]
    assert pod["metadata"]["labels"] == service["spec"]["selector"]
    (container,) = pod["spec"]["containers"]
    assert {m["name"] for m in container["volumeMounts"]} == {
        v["name"] for v in pod["spec"]["volumes"]
    }
    assert container["readinessProbe"]["httpGet"]["path"] == "/v1/models/toy"


def test_examples_ask_with_real_ids(toy, tmp_path):
    deploy(toy, tmp_path)
    ids = folders.read_catalogue(toy / "1")["item_id"].tolist()
    script = tmp_path / "predict.sh"
    assert script.stat().st_mode & stat.S_IXUSR
    lines = [line for line in script.read_text().splitlines() if line.startswith("ask ")]
    bodies = [json.loads(shlex.split(line)[2]) for line in lines]
    assert bodies[0]["inputs"]["history"] == [["", *ids[:3]]]
    signatures = read_signatures(toy / "1")
    asked = [body["signature_name"] for body in bodies]
    assert asked == [
        n for n in ("serving_default", "recommend_by_text", "similar") if n in signatures
    ]
    tree = ast.parse((tmp_path / "predict.py").read_text(encoding="utf-8"))
    constants = {
        node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)
    }
    assert ast.literal_eval(constants["HISTORY"]) == ids[:3]


def test_odd_names_are_quoted(exported_version, tmp_path):
    name = 'it\'s $5 "课程"'
    model = shutil.copytree(exported_version, tmp_path / "odd folder" / name)
    deploy(model, tmp_path / "here")
    text = text_of(tmp_path / "here")
    assert model_config(tmp_path / "here").name == name
    (service,) = yaml.safe_load(text["docker-compose.yml"])["services"].values()
    assert service["volumes"][0]["source"] == str(model.resolve()).replace("$", "$$")
    list(yaml.safe_load_all(text["kubernetes.yaml"]))
    ast.parse(text["predict.py"])
    checked = subprocess.run(["sh", "-n", str(tmp_path / "here" / "predict.sh")])
    assert checked.returncode == 0


# --- against a server ---


@pytest.mark.slow
def test_examples_get_their_answers(server, served_folder, tmp_path):
    """`kerasrec serve` speaks what TF Serving speaks; the label of the examples is stable."""
    deploy(served_folder, tmp_path)
    shown = subprocess.run(
        [str(tmp_path / "predict.sh"), server.rest_address], capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    answers = dict(zip(lines[::2], lines[1::2], strict=True))
    ids = json.loads(answers["serving_default"])["outputs"]["item_ids"]
    assert "similar" in answers and len(ids[0]) == 50
    command = [sys.executable, "predict.py", server.grpc_address]
    root = str(Path(kerasrec.__file__).parents[1])
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "AVAILABLE" in done.stdout
    assert done.stdout.count(ids[0][0]) == 2  # from the client, and from the stubs
    wrong = [str(tmp_path / "predict.sh"), server.rest_address + "/nowhere"]
    assert subprocess.run(wrong, capture_output=True).returncode != 0


@pytest.mark.slow
def test_examples_with_a_key_and_tls(served_folder, certificate, tmp_path):
    from kerasrec.serving import Access, ServerOptions, running_server

    authority, cert, key = certificate
    deploy(served_folder, tmp_path)
    root = str(Path(kerasrec.__file__).parents[1])
    secrets = {"KERASREC_API_KEY": "secret", "KERASREC_CA": str(authority)}
    access = Access(api_key="secret", tls_cert=str(cert), tls_key=str(key))
    with running_server(served_folder, ServerOptions(access=access)) as server:
        for command, address in (
            ([str(tmp_path / "predict.sh")], server.rest_address),
            ([sys.executable, str(tmp_path / "predict.py")], server.grpc_address),
        ):
            done = subprocess.run(
                [*command, address],
                env={**os.environ, "PYTHONPATH": root, **secrets},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr[-2000:]
            assert "item_ids" in done.stdout or "AVAILABLE" in done.stdout


@pytest.mark.slow
def test_examples_ask_with_titles(text_version, tmp_path):
    """A version whose encoder is in the graph: titles by curl and by the client."""
    from kerasrec.serving.server import running_server

    deploy(text_version, tmp_path)
    titles = folders.read_catalogue(text_version / "1")["title"].tolist()[:3]
    with running_server(text_version) as server:
        shown = subprocess.run(
            [str(tmp_path / "predict.sh"), server.rest_address], capture_output=True, text=True
        )
        assert shown.returncode == 0, shown.stderr
        lines = shown.stdout.splitlines()
        answer = json.loads(lines[lines.index("recommend_by_text") + 1])["outputs"]["item_ids"]
        recommender = kerasrec.Recommender.load(text_version)
        for protocol in ("grpc", "rest"):
            address = server.grpc_address if protocol == "grpc" else server.rest_address
            with kerasrec.Client(address, model="texts", protocol=protocol) as client:
                lists = client.recommend_by_text({"a": titles, "b": []}, k=3)
                vectors = client.encode_items(titles)
            assert lists.loc[lists["user_id"] == "a", "item_id"].tolist() == answer[0][:3]
            assert lists["user_id"].tolist() == ["a"] * 3 + ["b"] * 3
            np.testing.assert_allclose(vectors, recommender.encode(titles), atol=1e-5)
    text = text_of(tmp_path)
    assert titles[0] in text["predict.sh"] and "client.recommend_by_text" in text["predict.py"]


# --- what is never overwritten ---


def test_files_that_differ_stay_unless_forced(toy, tmp_path):
    folder = tmp_path / "here"
    deploy(toy, folder)
    before = text_of(folder)
    deploy(toy, folder)  # nothing differs
    (folder / "docker-compose.yml").write_text("mine")
    (folder / "README.md").unlink()
    (folder / "notes.txt").write_text("mine too")
    with pytest.raises(FileExistsError, match="other files of these names already: docker-compose"):
        deploy(toy, folder)
    assert not (folder / "README.md").exists()
    assert (folder / "docker-compose.yml").read_text() == "mine"
    deploy(toy, folder, force=True)
    assert text_of(folder) == {**before, "notes.txt": "mine too"}


# --- the command line ---


def run(*words, code=0):
    assert main([str(word) for word in words]) == code


def test_deploy_alone_writes_no_version(toy, tmp_path, capsys):
    run("export", "--model", toy, "--deploy", tmp_path / "here")
    assert capsys.readouterr().out == (
        f"wrote 8 files for TF Serving; begin with {tmp_path / 'here' / 'README.md'}\n"
    )
    assert folders.versions(toy) == [1]
    run("export", "--model", toy, "--set", "k=5", "--deploy", tmp_path / "there")
    assert folders.versions(toy) == [1, 2]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "expected --set O=V (a new version), --deploy FOLDER, or both."),
        (["--force", "--set", "k=5"], "--host-name and --force go with --deploy FOLDER."),
        (["--set", "k=5", "--deploy", "{toy}"], "--deploy needs a folder of its own; "),
        (["--deploy", "{toy}/1"], "toy/1, whose folder holds versions only. Choose another, such"),
        (["--deploy", "{toy}/new/deployment"], "toy, whose folder holds versions only."),
        (
            ["--set", "k=5", "--deploy", "file"],
            "--deploy needs a folder; file is a file. Choose another.",
        ),
        (["--deploy", "d", "--host-name", "a b"], "--host-name takes the name or address"),
        (["--deploy", "full"], "full has other files of these names already: README.md."),
    ],
)
def test_mistakes_are_one_sentence(toy, tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "README.md").write_text("mine")
    run("export", "--model", toy, *(word.replace("{toy}", str(toy)) for word in words), code=2)
    err = capsys.readouterr().err
    assert sentence in err and len(err.splitlines()) == 1
    assert folders.versions(toy) == [1] and not (toy / "new").exists()


def test_models_do_not_share_a_name_in_kubernetes(toy, tmp_path):
    names = ["toy", "课程", "电影", "a_b", "a-b", "x" * 60 + "1", "x" * 60 + "2"]
    found = {}
    for number, name in enumerate(names):
        model = shutil.copytree(toy, tmp_path / str(number) / name)
        deploy(model, tmp_path / str(number) / "out")
        text = (tmp_path / str(number) / "out" / "kubernetes.yaml").read_text(encoding="utf-8")
        (found[name],) = {part["metadata"]["name"] for part in yaml.safe_load_all(text)}
    assert len(set(found.values())) == len(names)
    assert found["toy"] == "tfserving-toy" and found["a-b"] == "tfserving-a-b"
    assert all(re.fullmatch("[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name) for name in found.values())
