# SPDX-License-Identifier: BSD-2-Clause
"""The elements of IEEE 1685-2009 that a packaged core uses: their order, number, and texts."""

import re
import xml.etree.ElementTree as ET

__all__ = ["SPIRIT", "PackageError", "check_elements"]

#: Namespace of the standard.
SPIRIT = "http://www.spiritconsortium.org/XMLSchema/SPIRIT/1685-2009"

#: Elements with elements in them: as a regular expression, in the order of the standard. Those that
#: the standard has besides are left out, as cores of ours do not have them.
_INSIDE = {
    "component": "vendor library name version busInterfaces? addressSpaces? memoryMaps? model?"
                 " fileSets? description? parameters? vendorExtensions?",
    "busInterfaces": "busInterface+",
    "busInterface": "name description? busType abstractionType? (master|slave) portMaps?"
                    " parameters?",
    "master": "addressSpaceRef?", "slave": "memoryMapRef?",
    "portMaps": "portMap+", "portMap": "logicalPort physicalPort",
    "logicalPort": "name", "physicalPort": "name",
    "addressSpaces": "addressSpace+", "addressSpace": "name description? range width",
    "memoryMaps": "memoryMap+", "memoryMap": "name description? addressBlock*",
    "addressBlock": "name description? baseAddress range width usage? access? register*",
    "register": "name description? dim? addressOffset size access? field*",
    "field": "name description? bitOffset bitWidth volatile? access? enumeratedValues?"
             " modifiedWriteValue? readAction?",
    "enumeratedValues": "enumeratedValue+", "enumeratedValue": "name description? value",
    "model": "views? ports?", "views": "view+",
    "view": "name description? envIdentifier+ language? modelName? fileSetRef*",
    "fileSetRef": "localName", "ports": "port+", "port": "name description? wire",
    "wire": "direction vector? wireTypeDefs?", "vector": "left right",
    "wireTypeDefs": "wireTypeDef+", "wireTypeDef": "typeName viewNameRef+",
    "fileSets": "fileSet+", "fileSet": "name description? file*", "file": "name fileType+",
    "parameters": "parameter+", "parameter": "name description? value"}

#: Elements with no text, and the attributes that they have instead.
_REFERENCES = {
    "busType": {"vendor", "library", "name", "version"},
    "abstractionType": {"vendor", "library", "name", "version"},
    "addressSpaceRef": {"addressSpaceRef"}, "memoryMapRef": {"memoryMapRef"}}

_NUMBER = r"\d+|0x[0-9a-fA-F]+"
_ACCESS = "read-only|write-only|read-write|writeOnce|read-writeOnce"
#: What texts may be; of all others that there is one.
_TEXTS = {
    **dict.fromkeys(("baseAddress", "range", "width", "addressOffset", "size", "dim", "bitOffset",
                     "bitWidth", "left", "right"), _NUMBER),
    "usage": "memory|register|reserved", "access": _ACCESS, "volatile": "true|false",
    "direction": "in|out|inout|phantom", "readAction": "clear|set|modify",
    "modifiedWriteValue": "oneToClear|oneToSet|oneToToggle|zeroToClear|zeroToSet|zeroToToggle"
                          "|clear|set|modify"}

#: Names that others refer to, and that are one of a kind in what they stand in.
_NAMED = ("busInterface", "addressSpace", "memoryMap", "addressBlock", "register", "field",
          "enumeratedValue", "view", "port", "fileSet")


class PackageError(ValueError):
    """A component.xml that is none, or does not describe its Verilog."""


def _pattern(inside: str) -> re.Pattern[str]:
    """Return what the tags of the elements inside match, each with a blank behind it."""
    return re.compile("".join(re.sub(r"^(\(.*\)|\w+)", r"(?:\1 )", part)
                              for part in inside.split()))


_PATTERNS = {tag: _pattern(inside) for tag, inside in _INSIDE.items()}


def check_elements(element: ET.Element) -> int:
    """Return how many elements were checked, ``element`` and those in it.

    PackageError unless they are as the standard has them: elements that the table above does not
    know, a wrong order or number of them, texts that are missing or none of those that may be,
    references without attributes, and names that are taken are refused. What is in
    ``vendorExtensions`` is not looked at.
    """
    tag = _local(element.tag)
    if tag == "vendorExtensions":
        return 1
    if tag in _REFERENCES:
        attributes = {_local(name) for name in element.keys()}
        if attributes != _REFERENCES[tag]:
            raise PackageError(f"element {tag} has the attributes {', '.join(sorted(attributes))},"
                               f" must have {', '.join(sorted(_REFERENCES[tag]))}")
        return 1
    if tag not in _INSIDE:
        text, allowed = (element.text or "").strip(), _TEXTS.get(tag, ".+")
        if len(element) or not re.fullmatch(allowed, text):
            raise PackageError(f"element {tag} holds {text!r}, must hold {allowed}")
        return 1
    tags = [_local(child.tag) for child in element]
    if not _PATTERNS[tag].fullmatch("".join(f"{found} " for found in tags)):
        raise PackageError(f"element {tag} {element.findtext(f'{{{SPIRIT}}}name', '')} holds"
                           f" {', '.join(tags) or 'nothing'}, must hold {_INSIDE[tag]}")
    for kind in set(tags).intersection(_NAMED):
        names = [child.findtext(f"{{{SPIRIT}}}name")
                 for child, found in zip(element, tags, strict=True) if found == kind]
        if taken := {name for name in names if names.count(name) > 1}:
            raise PackageError(f"{kind} {taken.pop()} is in {tag} twice")
    return 1 + sum(check_elements(child) for child in element)


def _local(name: str) -> str:
    """Return a name of the standard without its namespace; others, also without one, with it."""
    space, _, local = name.rpartition("}")
    return local if space == f"{{{SPIRIT}" else f"{space or '{'}}}{local}"
