"""Rules and traits of the orders of CDNOW, one of each kind."""

from __future__ import annotations

from typing import Any

from audience_sync.config import Config

ORDER = "Order Completed"
RULES: list[dict[str, Any]] = [
    {"did": ORDER},
    {"did": ORDER, "within": "30 days"},
    {"did": ORDER, "within": "1 month"},
    {"did": ORDER, "between": ["30 days", "60 days"]},
    {"did": ORDER, "since": "1997-03-01", "until": "1997-06-30"},
    {"did": ORDER, "at_least": 3, "within": "90 days"},
    {"did": ORDER, "exactly": 1},
    {"did": ORDER, "exactly": 2, "within": "1 year"},
    {"did": ORDER, "at_most": 1, "within": "60 days"},
    {"did": ORDER, "exactly": 0, "within": "30 days"},
    {"did": ORDER, "at_least": 2, "at_most": 4},
    {"did": ORDER, "where": {"revenue": {"gte": 50}}},
    {"did": ORDER, "where": {"units": [2, 3], "revenue": {"lt": 30.5}}},
    {"did": ORDER, "sum": {"revenue": {"gte": 100}}, "within": "90 days"},
    {"did": ORDER, "sum": {"revenue": {"eq": 59.07}}},
    {"did": ORDER, "avg": {"revenue": {"gt": 33.333333}}},
    {"did": ORDER, "min": {"revenue": {"gt": 25}}, "max": {"units": {"lte": 3}}},
    {"first": {"did": ORDER, "within": "60 days"}},
    {"last": {"did": ORDER, "between": ["60 days", "120 days"]}},
    {"last": {"did": ORDER, "until": "1997-02-01", "where": {"units": {"gte": 2}}}},
    {"then": [{"did": ORDER}, {"did": ORDER, "within": "30 days"}]},
    {"then": [{"did": ORDER, "within": "6 months"}, *[{"did": ORDER, "within": "1 month"}] * 2]},
    {"then": [{"did": ORDER, "where": {"revenue": {"lt": 15}}}, {"did": ORDER, "where": {"revenue": {"gt": 40}}}]},
    {"not": {"did": ORDER, "within": "60 days"}},
    {"all": [{"did": ORDER, "at_least": 2}, {"not": {"did": ORDER, "within": "45 days"}}]},
    {"any": [{"did": ORDER, "at_least": 5}, {"did": ORDER, "sum": {"revenue": {"gt": 300}}}]},
    {"all": [{"did": ORDER, "at_least": 3}, {"did": ORDER, "within": "30 days", "where": {"units": 1}}]},
    {"all": [{"in": "R5"}, {"not": {"in": "R13"}}]},
    {"not": {"any": [{"in": "R6"}, {"all": [{"in": "R1"}, {"not": {"in": "R5"}}]}]}},
]  # fmt: skip
TRAITS: list[dict[str, Any]] = [
    {"count": ORDER, "within": "90 days"},
    {"sum": {"event": ORDER, "property": "revenue"}},
    {"avg": {"event": ORDER, "property": "revenue"}, "within": "1 year"},
    {"most_frequent": {"event": ORDER, "property": "units"}},
    {"last": {"event": ORDER, "property": "revenue"}},
    {"unique_list": {"event": ORDER, "property": "units"}},
]


def config() -> Config:
    return Config.model_validate(
        {
            "version": 1,
            "source": "sqlite:///shop.db",
            "events": {ORDER: {"table": "orders", "user_id": "customer_id", "at": "ordered_on"}},
            "workflows": {"w": {"url": "http://127.0.0.1:1/"}},
            "jobs": [
                {
                    "name": "J",
                    "audiences": [{"name": f"R{n}", "who": rule} for n, rule in enumerate(RULES)],
                    "traits": [{"name": f"T{n}", **trait} for n, trait in enumerate(TRAITS)],
                }
            ],
        }
    )
