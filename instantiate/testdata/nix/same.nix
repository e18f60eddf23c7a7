let
  s = ./src;
  t = builtins.toFile "t.txt" "hello ${s}/run";
  lib = derivation { name = "lib"; builder = "${s}/run"; system = "x86_64-linux"; outputs = [ "out" "dev" "doc" ]; args = [ "a" t ]; flag = true; no = false; n = null; i = 5; l = [ "a" [ ] "b" [ "c" 1 ] ]; };
  fx = derivation { name = "fx"; builder = "b"; system = "x86_64-linux"; outputHash = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="; };
  fr = derivation { name = "fr"; builder = "b"; system = "x86_64-linux"; outputHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"; outputHashAlgo = "sha256"; outputHashMode = "recursive"; };
  twin = b: derivation { name = "twin"; builder = b; system = "x86_64-linux"; outputHash = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="; };
  after = t: derivation { name = "after"; builder = "b"; system = "x86_64-linux"; outputs = [ "dev" "out" ]; inherit t; };
  odd = derivation { name = "odd"; builder = "b"; system = "x86_64-linux"; outputs = [ "out" "name" "path" "builder" ]; };
in derivation { name = "app"; builder = "/bin/sh"; system = "x86_64-linux"; args = [ "-c" "echo ${lib.dev} ${fx} > $out" ]; x = "${lib}/lib:${fr}"; g = lib.drvPath; self = "${builtins.placeholder "out"}/bin:${builtins.placeholder "dev"}"; outputs = [ "out" "dev" ]; o = "${odd.name} ${odd.path}"; l = [ "a" [ (after (twin "2")) ] ]; m = "${(twin "3")} ${(twin "4")}"; esc = "a\"b\\c\nd\te\r"; }
