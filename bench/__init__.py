"""llmc beside other build tools on the same graphs.  README.md here says how to run it and what is measured.

graphs    what is built: the shapes, what an edit reaches, what each step must say
tools     the same graph written for each tool, its command, what it is made to start from
measure   one command as a whole process: seconds, CPU seconds, memory
loads     the order of what is done to one folder, and the checks that it was done
report    numbers to tables, results.json to results.md
plot      the growth as SVG
"""
