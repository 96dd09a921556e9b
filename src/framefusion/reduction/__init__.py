"""How much stays, where and by which rule: settings, schedules, segments, budgets, relevance, selectors; no model."""
