def sections(found): return ""
