"""Times: forms in which they are written, zones and clocks, a day and a clock in two columns."""
