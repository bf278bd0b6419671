"""`orchestrate report`: a sweep's runs -> one table, on the terminal, as JSON, or as one HTML file.

command.py    what the command does
loading.py    runs and their files -> table, picture
table.py      lines -> table: in the order of the sweep file's rows, or ranked
lines.py      trials of a configuration, or of an ensemble -> a line
describe.py   a training -> what it was, in a few words
text.py       the table on a terminal
page.py       the table as one HTML file
charts.py     its chart, as SVG
markup.py     elements of HTML and SVG, escaped
style.py      how the page looks
"""
