"""Complete problems beside flights, each only of the files that a problem brings, and what makes a project of one."""
