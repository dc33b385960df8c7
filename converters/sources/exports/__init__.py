"""Exports of annotation tools: a module for each tool, and what becomes of its marks."""
