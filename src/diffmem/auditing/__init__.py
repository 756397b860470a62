"""Audits: does this model leak its training data?"""
