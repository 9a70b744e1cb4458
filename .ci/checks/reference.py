"""The reference against the code: metrics with their kinds and labels, HTTP paths with their methods and scopes, keys of
settings, words of the glossary. `cargo test -p selvedge-local --test documents` compares the defaults of settings, which only the
compiled code knows."""

import re

METHODS = "GET|POST|PUT|DELETE|PATCH"
KINDS = {"counter": "counter", "gauge": "gauge", "histogram": "summary"}

# The words of the design. One idea has one word in the code, in documents and in messages.
WORDS = """
aggregate, ballot, batch, command, configuration, cursor, device, device command, directory, fencing token, gateway, leader, learner,
lock, node, outbox, part, placement, principal, queue, reading, receipt, replica, retained message, ring, saga, session, shard, site,
slot, stream, transaction, twin, uplink, watermark, window, witness
"""


def rows(text):
    """The cells of a page's tables, with the headings above them: (headings, cells)."""
    headings, header = {}, []
    for line in text.split("\n"):
        heading = re.match(r"(#+) +(.*)", line)
        if heading:
            headings = {level: said for level, said in headings.items() if level < len(heading[1])}
            headings[len(heading[1])] = heading[2]
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] if line.startswith("|") else []
        if not cells:
            header = []
        elif not header:
            header = cells
        elif not re.match(r"[-: ]+$", cells[0]):
            yield headings, dict(zip(header, cells))


def differences(page, what, shown, real):
    for key in sorted(real.keys() - shown.keys()):
        yield f"{page} does not name {what} {key}"
    for key in sorted(shown.keys() - real.keys()):
        yield f"{page} names {what} {key}, which is not in the code"
    for key in sorted(shown.keys() & real.keys()):
        if shown[key] != real[key]:
            yield f"{page} says of {what} {key}: {shown[key]}; the code: {real[key]}"


def recorded(source):
    """Metrics in code: name to kind and labels."""
    found = {}
    for kind, name, labels in re.findall(r"\b(counter|gauge|histogram)!\(\s*\"(selvedge_\w+)\"((?:,\s*\"\w+\" => [^,)]+)*)", source):
        found[name] = (KINDS[kind], ",".join(re.findall(r"\"(\w+)\" =>", labels)))
    # A helper of this name sets gauges without labels.
    found |= {name: ("gauge", "") for name in re.findall(r"\bgauge\(\s*\"(selvedge_\w+)\"", source)}
    return found


def described(source):
    """The metrics that have a HELP text: name to kind."""
    calls = re.findall(r"\bdescribe_(counter|gauge|histogram)!\(\s*\"(selvedge_\w+)\"", source)
    return {name: KINDS[kind] for kind, name in calls}


def metrics(page, text, source):
    shown = {}
    for _, cells in rows(text):
        for name, labels in re.findall(r"`(selvedge_\w+)(?:\{([\w,]+)\})?`", cells.get("Metric", "")):
            shown[name] = (cells.get("Kind"), labels)
    found = recorded(source)
    yield from differences(page, "metric", shown, found)
    kinds = {name: kind for name, (kind, _) in found.items()}
    yield from differences("describe_metrics", "metric", described(source), kinds)


def http(page, text, gateway, node):
    shown = {"Gateway": {}, "Node": {}}
    for headings, cells in rows(text):
        for route in re.findall(rf"`((?:{METHODS}) /[^`]*)`", cells.get("Path", "")):
            shown[headings[2]][route] = cells.get("Scope", "").strip("`")
    real = {}
    for path, methods in re.findall(r"all\.path\(\s*\"(/[^\"]*)\",\s*(.*?)\);", gateway, re.S):
        for method in re.findall(r"^(get|post|put|delete)\(|\.and\(Method::(\w+)", methods):
            real[f"{(method[0] or method[1]).upper()} {path}"] = ""
    yield from differences(page, "the gateway's path", shown["Gateway"], real)
    real = {"GET /": "none"}
    read = re.search(r"let read = Guard::Scope\(Scope::(\w+)\)", node)
    for method, path, guard in re.findall(r"all\.(get|post|put|delete|patch)\(\s*\"(/[^\"]*)\",\s*([\w:()]+),", node):
        scope = re.search(r"Scope::(\w+)\)", guard) or (guard == "read" and read)
        real[f"{method.upper()} {path}"] = scope[1].lower() if scope else "none"
    yield from differences(page, "the node's path", shown["Node"], real)


def glossary(page, text):
    words = {word.strip() for word in WORDS.replace("\n", " ").split(",")}
    known = {cells.get("Word") for _, cells in rows(text)}
    yield from (f"{page} does not explain `{word}`" for word in sorted(words - known))
