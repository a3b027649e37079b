# Stage 1: mvm-guest as /init, and the modules that a stock kernel needs, in the order of their names.
{ run }:
{
  name,
  agent,
  modules,
}:
run {
  inherit name;
  script = ./initrd.sh;
  variables = {
    agent = agent.program;
    modules = if modules == null then "" else "${modules}";
  };
}
