# Failed tests of a file of tests, as text; empty where all passed.
{ tests }:
builtins.concatLists (
  builtins.attrValues (
    builtins.mapAttrs (
      name: test:
      if test.actual == test.expected then
        [ ]
      else
        [
          "${name}: expected ${builtins.toJSON test.expected}, got ${builtins.toJSON test.actual}"
        ]
    ) tests
  )
)
