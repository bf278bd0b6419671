"""`orchestrate report`: a sweep's runs -> one table, on the terminal, as JSON, or as one HTML file.

report.py            runs and their files -> the table, and what the command does with it
describe.py          a training -> what it was, in a few words
table.py             trials and ensembles -> one line each, by row or ranked
terminal.py          the table on a terminal
page.py              the table as one HTML file
chart.py             its chart, as SVG
ensemble_section.py  the ensemble that `best-ensemble` chose last, as a section of the page
html.py              elements of HTML and SVG, and the style sheet
"""
