"""Composers write notes: prompt -> Score."""

TABLE = {"rules": "audiogen.composers.rules:RuleComposer"}
