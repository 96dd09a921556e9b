"""What the tasks of this folder need beside their YAML."""


def doc_to_visual(doc):
    return [doc["video"]]
