"""Thin adapters: training frameworks and loggers. The core never imports them."""
