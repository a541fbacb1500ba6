"""TF Serving's JSON of a Predict request: row form, column form, base64; and of its answer."""

import base64
import binascii
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from kerasrec.features.usergroups import USER_INPUT
from kerasrec.serving.admission import Refusal

_BYTES = "_bytes"  # outputs with this ending are written as base64
_INT64 = range(-(1 << 63), 1 << 63)
_INT32 = range(-(1 << 31), 1 << 31)


def _is_int(bounds: range) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and value in bounds


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


#: dtype -> (numpy dtype, which JSON values it takes); strings are handled apart
_KINDS = {
    "float32": (np.float32, _is_number),
    "float64": (np.float64, _is_number),
    "int32": (np.int32, _is_int(_INT32)),
    "int64": (np.int64, _is_int(_INT64)),
    "bool": (np.bool_, lambda value: type(value) is bool),
}


class PredictJson(NamedTuple):
    """The JSON of a Predict request.

    Attributes:
        signature: its name; "" = the default one.
        form: "instances" (a list of rows) or "inputs" (all rows of an input together).
        value: the JSON value under that key.
    """

    signature: str
    form: str
    value: Any


def read_request(body: bytes) -> PredictJson:
    """Reads the body of a request.

    Raises:
        Refusal: INVALID_ARGUMENT, with what is wrong.
    """
    if not body.strip():
        raise _refusal("JSON Parse error: The document is empty")
    try:
        found = json.loads(body)
    except RecursionError:
        raise _refusal("JSON Parse error: too many lists inside each other") from None
    except ValueError as error:  # also of bytes that are no UTF-8
        raise _refusal(f"JSON Parse error: {error}") from None
    if not isinstance(found, dict):
        raise _refusal(f"JSON Value: {_short(found)} Is not object")
    signature = found.get("signature_name", "")
    if not isinstance(signature, str):
        raise _refusal(
            f"JSON Value: {_short(found)} not formatted correctly. 'signature_name' key must be a "
            "string value."
        )
    forms = [form for form in ("instances", "inputs") if form in found]
    if not forms:
        raise _refusal("Missing 'inputs' or 'instances' key")
    if len(forms) == 2:
        raise _refusal("expecting only one of 'inputs' or 'instances' keys to exist")
    return PredictJson(signature, forms[0], found[forms[0]])


def columns(form: str, value: Any, names: Collection[str]) -> dict[str, Any]:
    """Finds the value of each input, nested lists with the batch outside.

    Args:
        form, value: as in `PredictJson`.
        names: inputs of the signature.

    Raises:
        Refusal: INVALID_ARGUMENT.
    """
    if form == "inputs":
        if isinstance(value, dict) and not _is_base64(value):
            return dict(value)
        return {_only(names, "inputs"): value}
    if not isinstance(value, list):
        raise _refusal(f"JSON Value: {_short(value)} Excepting 'instances' to be an list/array")
    if not value:
        raise _refusal("No values in 'instances' array")
    objects = [isinstance(row, dict) and not _is_base64(row) for row in value]
    if not any(objects):
        return {_only(names, "instances"): value}
    if not all(objects):
        number = objects.index(not objects[0])
        raise _refusal(f"'instances' must be all objects or none. Item {number} differs.")
    for number, row in enumerate(value):
        if row.keys() != value[0].keys():
            raise _refusal(
                f"Failed to process element: {number} of 'instances' list. JSON object: "
                f"{_short(row)} keys must be equal to: {','.join(sorted(names))}"
            )
    return {name: [row[name] for row in value] for name in value[0]}


def _only(names: Collection[str], form: str) -> str:
    names = list(names)
    if len(names) != 1:
        raise _refusal(
            f"{form} is a plain list, but expecting objects with the keys {', '.join(names)}, as "
            "the signature has several inputs"
        )
    return names[0]


def shape_of(value: Any) -> tuple[int, ...]:
    """Reads the sizes of nested lists off their first elements: `[[1, 2], [3, 4]]` -> (2, 2)."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def to_array(name: str, value: Any, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Makes a numpy array of nested lists (of bytes objects for strings).

    Args:
        name: of the input, for messages.
        value: nested lists.
        shape: `shape_of(value)`.
        dtype: name of TensorFlow's type.

    Raises:
        Refusal: INVALID_ARGUMENT: lists of unequal length, a value of another type.
    """
    cells = [value]
    for level, size in enumerate(shape):
        for part in cells:
            if not isinstance(part, list):
                raise _refusal(
                    f"JSON Value: {_short(part)} found at incorrect level: {level + 1} of {name}"
                )
            if len(part) != size:
                raise _refusal(
                    f"Encountered list at unexpected size: {len(part)} at level: {level} expected "
                    f'size: {size} in {name}. Rows of unequal length need filling up (with "" '
                    "where they hold ids or texts, else with 0)."
                )
        cells = [cell for part in cells for cell in part]
    if dtype == "string":
        cells = [_bytes_of(name, cell) for cell in cells]
        array = np.empty(len(cells), object)
        array[:] = cells
        return array.reshape(shape)
    if dtype not in _KINDS:
        raise Refusal("UNIMPLEMENTED", f"Conversion of JSON Value to type: {dtype} ({name})")
    numpy_dtype, fits = _KINDS[dtype]
    of_user = name.startswith(USER_INPUT)
    if of_user and dtype == "float32":  # null and NaN: not known
        cells = [float("nan") if cell is None else cell for cell in cells]
    for cell in cells:
        if not fits(cell):
            raise _type_error(name, cell, dtype)
    with np.errstate(over="ignore"):
        try:
            array = np.array(cells, numpy_dtype).reshape(shape)
        except OverflowError:
            raise _refusal(f"a value of {name} does not fit into {dtype}") from None
    bad = np.isinf(array) if of_user and array.dtype.kind == "f" else ~_finite(array)
    if bad.any():  # 1e999 is read as infinity
        raise _refusal(f"a value of {name} does not fit into {dtype}: expected finite numbers")
    return array


def _finite(array: np.ndarray) -> np.ndarray:
    return np.isfinite(array) if array.dtype.kind == "f" else np.ones(array.shape, bool)


def _bytes_of(name: str, cell: Any) -> bytes:
    if isinstance(cell, dict) and _is_base64(cell):
        try:
            return base64.b64decode(cell["b64"], validate=True)
        except (binascii.Error, ValueError):
            raise _refusal(f"Unable to base64 decode a value of {name}") from None
    if not isinstance(cell, str):
        raise _type_error(name, cell, "string")
    try:
        return cell.encode()
    except UnicodeEncodeError:
        raise _refusal(f"a value of {name} is no valid Unicode") from None


def _is_base64(value: dict) -> bool:
    return len(value) == 1 and isinstance(value.get("b64"), str)


def _type_error(name: str, cell: Any, dtype: str) -> Refusal:
    kind = {dict: "Object", list: "Array", str: "String", bool: "Bool", type(None): "Null"}
    return _refusal(
        f"JSON Value: {_short(cell)} Type: {kind.get(type(cell), 'Number')} is not of expected "
        f"type: {dtype} ({name})"
    )


def write_answer(form: str, outputs: Mapping[str, np.ndarray]) -> bytes:
    """Writes the JSON of an answer.

    Args:
        form: "instances" gives `predictions`, one entry per row; "inputs" gives `outputs`.
        outputs: name -> numpy array; with one of them its name is left out, as TF Serving does.

    Raises:
        Refusal: INVALID_ARGUMENT: rows were asked for and the outputs have unequal ones.
    """
    values = {name: _plain(name, array) for name, array in outputs.items()}
    if form == "inputs":
        answer = {"outputs": values if len(values) > 1 else next(iter(values.values()))}
    else:
        if len({array.shape[:1] for array in outputs.values()}) > 1 or not all(
            array.ndim for array in outputs.values()
        ):
            raise _refusal("the outputs have no common number of rows; ask with 'inputs' instead")
        rows = zip(*values.values(), strict=True)
        answer = {
            "predictions": [dict(zip(values, row, strict=True)) for row in rows]
            if len(values) > 1
            else next(iter(values.values()))
        }
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()


def _plain(name: str, array: np.ndarray) -> list:
    if array.dtype != object:
        return array.tolist()
    if name.endswith(_BYTES):
        text = [{"b64": base64.b64encode(cell).decode()} for cell in array.flat]
    else:
        text = [cell.decode(errors="replace") for cell in array.flat]
    filled = np.empty(len(text), object)
    filled[:] = text
    return filled.reshape(array.shape).tolist()


def _refusal(message: str) -> Refusal:
    return Refusal("INVALID_ARGUMENT", message)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = text if len(text) <= 80 else f"{text[:77]}..."
    return text.encode(errors="replace").decode()
