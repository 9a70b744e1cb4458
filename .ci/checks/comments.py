"""Doc comments: every public item has one, and none only repeats the name below it.

rustc's `missing_docs` also asks for a comment on each field and variant, which breeds comments such as `/// The shard.`
above `shard`. Here fields and variants may go without.
"""

import re

ITEM = re.compile(r"pub (?:(?:async|const|unsafe) )*(?:fn|struct|enum|union|trait|type|const|static|mod) (\w+)")
LEAST_WORDS = 4
# Words that say nothing by themselves.
FILLERS = set("a all an and as at be by for from has in into is it its of on one or that the this to what which with".split())


def stems(text):
    """The words of a text or a name without their endings: `Encodes the frames` says no more than `encode_frame`."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", text)
    return {re.sub(r"(?<=..)(?:ing|ed|es|s|e)$", "", part.lower()) for part in parts}


SILENT = stems(" ".join(FILLERS)) | FILLERS


def items(lines):
    """Each item that has a doc comment or needs one: (line number, first line, names around it, comment)."""
    comment, attribute, owner, indent, in_trait = [], 0, "", "", False
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if attribute or text.startswith("#["):
            if text.startswith("#[arg("):
                comment = []  # a help text: its option's name stands beside it
            attribute += text.count("[") - text.count("]")
            if text.startswith("#[cfg(test)]") and re.match(r"\s*(?:pub[^ ]* )?mod \w+ \{", (lines + [""])[number]):
                return
            continue
        if text.startswith("///"):
            comment.append(text[3:].strip())
            continue
        if comment or ITEM.match(text) or in_trait and re.match(r"(?:async )?fn ", text):
            yield number, text, owner, " ".join(comment)
        comment = []
        opened = re.match(r"(\s*)(pub )?(?:\(\w+\) )?(impl|trait|struct|enum|mod)\b(.*)\{$", line)
        if opened:
            indent, owner, in_trait = opened[1], re.sub(r"<[^<>]*>", "", opened[4]), bool(opened[2]) and opened[3] == "trait"
        elif line == f"{indent}}}":
            owner, in_trait = "", False


def explains_itself(path, module):
    """Whether the file of `pub mod module;` begins with a comment of its own."""
    folder = path.parent if path.name in ("mod.rs", "lib.rs", "main.rs") else path.with_suffix("")
    files = [folder / f"{module}.rs", folder / module / "mod.rs"]
    return any(file.is_file() and re.match(r"(?:#!\[[^\n]*\n)*//!", file.read_text()) for file in files)


def hollow(text, owner, comment):
    said = re.findall(r"\S*\w\S*", comment)
    name = re.match(r"(?:pub(?:\([\w ]+\))? )?(?:[a-z]+ )*(\w+)", text)
    names = stems(f"{name[1] if name else ''} {owner}")
    return len(said) < LEAST_WORDS or not stems(comment) - names - SILENT


def reexports(crate):
    """What `pub use` names in a crate: items of private modules that are public all the same."""
    uses = []
    for path in crate.rglob("*.rs"):
        if not in_private_module(path, crate):
            uses += re.findall(r"^\s*pub use ([^;]+);", path.read_text(encoding="utf-8"), re.M)
    return set(re.findall(r"\w+", " ".join(uses)))


def in_private_module(path, crate):
    """Whether a module on the way from the crate's root to this file is not `pub`."""
    module = path if path.name != "mod.rs" else path.parent
    while module != crate and module.stem not in ("lib", "main"):
        above = module.parent
        root = [above / "lib.rs", above / "main.rs"] if above == crate else [above / "mod.rs", above.with_suffix(".rs")]
        declared = "\n".join(file.read_text(encoding="utf-8") for file in root if file.is_file())
        if not re.search(rf"^pub mod {module.stem};", declared, re.M):
            return True
        module = above
    return False


def check(paths, name):
    """(path, complaint) for each missing comment; and for each hollow one."""
    crates = {}
    missing, empty = [], []
    for path in paths:
        if "src" not in path.parts or "tests" in path.parts or path.name == "tests.rs":
            continue
        crate = next(folder for folder in path.parents if folder.name == "src")
        crates.setdefault(crate, reexports(crate))
        private = in_private_module(path, crate)
        code = path.read_text(encoding="utf-8")
        for number, text, owner, comment in items(code.split("\n")):
            item = ITEM.match(text) or re.match(r"(?:async )?fn (\w+)", text)
            if comment:
                if hollow(text, owner, comment):
                    empty.append((path, f"{name(path)}:{number}: this doc comment says no more than the name: {comment}"))
            elif not (text.startswith("pub mod") and explains_itself(path, item[1])):
                there = re.search(r"\w+", owner or item[1])[0]
                inside = re.search(rf"^(?:pub\([\w ]+\) )?(?:struct|enum|trait|mod) {there}\b", code, re.M)
                if not inside and (there in crates[crate] or not private):
                    missing.append((path, f"{name(path)}:{number}: {item[1]} is public and has no doc comment"))
    return missing, empty
