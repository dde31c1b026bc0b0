"""Callables as handlers and hooks: their names, whether calling them can work, and how. No I/O.

Any callable can be a handler: functions, methods, lambdas, `functools.partial`, objects with
`__call__`, builtins. What can't work is found when it is registered, as far as the signature and
its annotations show it. Annotations are read without evaluating them, since names that are imported
for type checkers only don't exist.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import inspect
import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from collections.abc import (
    Set as AbstractSet,
)
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, NoneType
from typing import Annotated, Any, Final, Never, NoReturn, get_args, get_origin

from opsqueue.exceptions import HandlerError
from opsqueue.model.checks import shown

AnyCallable = Callable[..., Any]
_LAYERS_AT_MOST: Final = 100
_POSITIONAL: Final = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
)
_VARIABLE: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_ITERATORS: Final = frozenset({Iterator, Generator, AsyncIterator, AsyncGenerator})
_NEVER: Final = (NoReturn, Never, "NoReturn", "Never")
_SCALARS: Final = (
    *(int, float, complex, str, bytes, bytearray, NoneType, dict, set, frozenset),
    *(Mapping, AbstractSet),
)
"""A list is none of these, and none of them is a list of results; nor is any subclass."""


def function_of(function: object) -> object:
    """Return what runs first when a callable is called.

    It is the function of a partial or a method, or the `__call__` of an object's class.
    """
    for _ in range(_LAYERS_AT_MOST):
        if isinstance(function, partial):
            function = function.func
        elif isinstance(function, MethodType | staticmethod):
            function = function.__func__
        elif isinstance(function, FunctionType | BuiltinFunctionType | type):
            break
        else:
            call = getattr(type(function), "__call__", None)  # noqa: B004 as the interpreter does
            if not isinstance(call, FunctionType):
                break
            function = call
    return function


def name_of(function: object) -> str:
    """Return module and name of a callable, for banners, spans and messages. Never raises."""
    while isinstance(function, partial):
        function = function.func
    module = _text(function, "__module__") or _text(type(function), "__module__")
    return f"{module}.{short_name_of(function)}"


def short_name_of(function: object) -> str:
    """Return the name of a callable without its module; an object has that of its class."""
    while isinstance(function, partial):
        function = function.func
    name = _text(function, "__qualname__") or _text(function, "__name__")
    return type(function).__qualname__ if name is None else name


def _text(thing: object, attribute: str) -> str | None:
    try:
        value = getattr(thing, attribute, None)
    except Exception:  # noqa: BLE001 its __getattr__ can raise anything, as that of a proxy
        return None
    return value if isinstance(value, str) and value else None


def is_redefinition(new: object, old: object) -> bool:
    """Return whether a callable replaces another one, as when a notebook's cell is run again.

    Both were defined by hand, in `__main__`, under the same name. Two of the same name in a program
    that is run as a file are two functions.
    """
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if new is old:
        return file is None
    names = {name_of(one) for one in (new, old)}
    if len(names) > 1 or not names.pop().startswith(("__main__.", "ipykernel")):
        return False
    codes = [getattr(function_of(one), "__code__", None) for one in (new, old)]
    lines = {code.co_firstlineno for code in codes if code and code.co_filename == file}
    return len(lines) < 2


def is_async(function: object) -> bool:
    """Return whether a call surely returns a coroutine.

    A plain function may do so, too, such as the wrapper of a decorator that does not know of
    `async def`. That is only seen from what it returns.
    """
    return _is_any(function, inspect.iscoroutinefunction)


def is_in_loop() -> bool:
    """Return whether an event loop runs in this thread, as in an `async def` test or a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def is_generator(function: object) -> bool:
    """Return whether a call returns a generator and runs nothing."""
    return _is_any(function, inspect.isgeneratorfunction, inspect.isasyncgenfunction)


def _is_any(function: object, *tests: Callable[[object], bool]) -> bool:
    try:
        return any(test(one) for one in (function, function_of(function)) for test in tests)
    except Exception:  # noqa: BLE001 as in _text
        return False


def check_is_callable(function: object, queue: str, kind: str) -> None:
    """Raise HandlerError for what can't be called, or whose call runs no handler."""
    decorator = f'@app.{kind}_handler("{queue}")'
    if isinstance(function, classmethod):
        name = _text(function, "__qualname__") or "it"
        message = (
            f"the handler {name} of queue {queue!r} is a classmethod that is not bound yet: "
            f"register the method behind its class, as {decorator[1:]}({name})"
        )
        raise HandlerError(message)
    if not callable(function):
        message = (
            f"the handler of queue {queue!r} is {shown(function)}: decorate a function, and "
            f"write the decorator with its queue: {decorator}"
        )
        raise HandlerError(message)
    if isinstance(function, type) and any("__call__" in vars(one) for one in function.__mro__):
        message = (
            f"the handler {name_of(function)} of queue {queue!r} is a class, and calling it only "
            f"makes an instance: register an instance, as {decorator[1:]}({function.__name__}(…))"
        )
        raise HandlerError(message)
    if is_generator(function):
        message = (
            f"the handler {name_of(function)} of queue {queue!r} has a `yield`: calling "
            "it returns a generator and runs nothing; return the result instead"
        )
        raise HandlerError(message)


def check_hook(function: object, at: str, *arguments: str) -> None:
    """Raise HandlerError for a hook whose call with these arguments would run nothing, or raise."""
    if is_async(function):
        message = "is an `async def`: calling it would run nothing; call asyncio.run in a plain one"
    elif is_generator(function):
        message = (
            "has a `yield`: calling it would run nothing; register a function for the start and "
            "one for the stop"
        )
    elif not callable(function):
        message = "is no function"
    else:
        try:
            signature = _signature_of(function)
        except Exception:  # noqa: BLE001 as in _text
            return  # some builtins have none
        try:
            signature.bind(*arguments)
        except TypeError:
            called = (
                f"is called with ({', '.join(arguments)})" if arguments else "gets no arguments"
            )
            message = f"{called}: it takes {signature}"
        else:
            return
    message = f"the {at} hook {short_name_of(function)} {message}"
    raise HandlerError(message)


def _signature_of(function: AnyCallable, *, follow_wrapped: bool = True) -> inspect.Signature:
    options: dict[str, Any] = {}
    if sys.version_info >= (3, 14):
        # By default it evaluates annotations, and raises NameError for names of type checkers only.
        from annotationlib import Format  # noqa: PLC0415 new in 3.14

        options["annotation_format"] = Format.FORWARDREF
    return inspect.signature(function, follow_wrapped=follow_wrapped, **options)


def takes_chunk(function: AnyCallable) -> bool:
    """Return whether a handler has an argument `chunk`, which is passed by name.

    Raises:
        HandlerError: calling it with operations, and the chunk, would raise a TypeError.
    """
    try:
        declared = _signature_of(function)
        own = _signature_of(function, follow_wrapped=False)
    except Exception:  # noqa: BLE001 as in _text
        return False  # some builtins have no signature: they get only the operation
    named = declared.parameters.get("chunk")
    is_bound = isinstance(function, partial) and "chunk" in function.keywords
    wants = named is not None and named.kind not in _VARIABLE and not is_bound
    # The wrapper of a decorator has the signature of the wrapped function, but it is the one that
    # is called. If it passes everything on, the wrapped function decides.
    kinds = {p.kind for p in own.parameters.values()}
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        declared = own
        wants = wants and ("chunk" in own.parameters or inspect.Parameter.VAR_KEYWORD in kinds)
    if not _binds(declared, with_chunk=wants):
        raise HandlerError(_reason(function, list(declared.parameters.values())))
    _check_is_no_method(function, declared)
    return wants


def _binds(signature: inspect.Signature, *, with_chunk: bool) -> bool:
    try:
        signature.bind(None, **({"chunk": None} if with_chunk else {}))
    except TypeError:
        return False
    return True


def _reason(function: AnyCallable, parameters: Sequence[inspect.Parameter]) -> str:
    """Return the message for a handler that can't be called with its operations."""
    name = name_of(function)
    places = [p for p in parameters if p.kind in _POSITIONAL]
    if not any(p.name != "chunk" for p in places):
        hint = " beside `chunk`, which is the Chunk" if places else ""
        return f"handler {name} takes no operations: give it an argument for them{hint}"
    required = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind not in _VARIABLE and p.name != "chunk"
    ]
    if len(required) > 1:
        if required[0] in ("self", "cls"):
            return _is_method(name)
        return (
            f"handler {name} takes {', '.join(required)}: it gets its operations and, if it has an "
            "argument of that name, `chunk`; bind the others by functools.partial"
        )
    return (
        f"handler {name} can't be called with its operations by position and `chunk` by name: "
        "write `chunk` behind the operations, and no `/` behind it"
    )


def _check_is_no_method(function: AnyCallable, signature: inspect.Signature) -> None:
    if isinstance(function, FunctionType) and next(iter(signature.parameters)) in ("self", "cls"):
        parent = function.__qualname__.rpartition(".")[0]
        if parent and not parent.endswith("<locals>"):
            raise HandlerError(_is_method(name_of(function)))


def _is_method(name: str) -> str:
    return (
        f"handler {name} is a method that is not bound yet, so `self` would get the operations: "
        "register the method of an instance"
    )


def check_annotations(function: AnyCallable, *, is_of_chunks: bool, chunk_type: type) -> None:
    """Raise HandlerError if annotations say that a handler can't work.

    Only types that can't be right are refused: a list is never an int, but it may do as a tuple.
    """
    try:
        signature = _signature_of(function)
    except Exception:  # noqa: BLE001 as in _text
        return
    if signature.return_annotation in _NEVER:
        return  # such as pytest.fail, where nothing is to be called
    name, names = name_of(function), _globals_of(function)
    is_checked = False
    for parameter in signature.parameters.values():
        if parameter.kind in _VARIABLE:
            continue
        found = _type_in(parameter.annotation, names)
        if parameter.name == "chunk":
            if _is_no_list(found) or found in (list, tuple):
                message = (
                    f"handler {name} takes `{_name(found)}` as `chunk`: that argument gets the "
                    "Chunk; name the one for the operations otherwise"
                )
                raise HandlerError(message)
        elif parameter.kind in _POSITIONAL and not is_checked:
            is_checked = True
            _check_takes(name, parameter.name, found, chunk_type, is_of_chunks=is_of_chunks)
    returned = _type_in(signature.return_annotation, names, is_result=True)
    # None is left alone: it is written at functions that always raise.
    is_wrong = is_of_chunks and _is_no_list(returned) and returned is not NoneType
    if is_wrong or returned in _ITERATORS:
        wanted = (
            "a chunk handler returns a list with a result for each operation"
            if is_of_chunks
            else "return the result itself, or a list"
        )
        message = f"handler {name} returns `{_name(returned)}`: {wanted}"
        raise HandlerError(message)


def _check_takes(
    name: str, argument: str, found: object, chunk_type: type, *, is_of_chunks: bool
) -> None:
    if found is chunk_type:
        message = (
            f"handler {name} takes a Chunk as {argument}, where it gets operations: add an "
            "argument `chunk` for it"
        )
        raise HandlerError(message)
    if is_of_chunks and _is_no_list(found):
        message = (
            f"handler {name} takes `{_name(found)}` as {argument}: a chunk handler gets the list "
            "of a chunk's operations; an operation_handler gets one at a time"
        )
        raise HandlerError(message)


def _is_no_list(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, _SCALARS)


def _name(found: object) -> str:
    return "None" if found is NoneType else getattr(found, "__name__", repr(found))


def _globals_of(function: AnyCallable) -> Mapping[str, object]:
    inner = function_of(function)
    for _ in range(_LAYERS_AT_MOST):
        if not hasattr(inner, "__wrapped__"):
            break
        inner = function_of(inner.__wrapped__)
    return {**vars(builtins), **getattr(inner, "__globals__", {})}


def _type_in(
    annotation: object, names: Mapping[str, object], *, is_result: bool = False
) -> object | None:
    """Return the type that an annotation names, without its arguments; None: not known, or many."""
    if annotation is inspect.Parameter.empty:
        return None
    if annotation is None:
        return NoneType
    if isinstance(annotation, str):
        return _type_in_text(annotation, names, is_result=is_result)
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if origin is Annotated:
        return _type_in(arguments[0], names, is_result=is_result)
    if is_result and origin in (Awaitable, Coroutine) and arguments:
        return _type_in(arguments[-1], names)
    return origin if isinstance(origin, type) else None


def _type_in_text(
    annotation: str, names: Mapping[str, object], *, is_result: bool
) -> object | None:
    try:
        node = ast.parse(annotation, mode="eval").body
    except (SyntaxError, ValueError, RecursionError):
        return None
    if isinstance(node, ast.Constant):
        return _type_in(node.value, names, is_result=is_result)
    arguments: list[ast.expr] = []
    if isinstance(node, ast.Subscript):
        inner = node.slice
        arguments = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        node = node.value
    named = _named(node, names)
    if named is Annotated and arguments:
        return _type_in(ast.unparse(arguments[0]), names, is_result=is_result)
    found = None if named is None else _type_in(named, names)
    if is_result and found in (Awaitable, Coroutine) and arguments:
        return _type_in(ast.unparse(arguments[-1]), names)
    return found


def _named(node: ast.expr, names: Mapping[str, object]) -> object | None:
    match node:
        case ast.Name(id=name):
            return names.get(name)
        case ast.Attribute(value=ast.Name(id=module), attr=name):
            return getattr(names.get(module), name, None)
        case _:
            return None
