;; A component of the world wasi:cli/command that looks a name up, and ends with an error unless its first address is 192.0.2.7.
(component
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $pollable (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:sockets/network@0.2.0" (instance $network
    (export "network" (type (sub resource)))
    (type $code (enum "unknown" "access-denied" "not-supported" "invalid-argument" "out-of-memory" "timeout"
      "concurrency-conflict" "not-in-progress" "would-block" "invalid-state" "new-socket-limit" "address-not-bindable"
      "address-in-use" "remote-unreachable" "connection-refused" "connection-reset" "connection-aborted"
      "datagram-too-large" "name-unresolvable" "temporary-resolver-failure" "permanent-resolver-failure"))
    (export "error-code" (type (eq $code)))
    (type $four (tuple u8 u8 u8 u8))
    (export "ipv4-address" (type $ipv4 (eq $four)))
    (type $eight (tuple u16 u16 u16 u16 u16 u16 u16 u16))
    (export "ipv6-address" (type $ipv6 (eq $eight)))
    (type $address (variant (case "ipv4" $ipv4) (case "ipv6" $ipv6)))
    (export "ip-address" (type (eq $address)))))
  (alias export $network "network" (type $net))
  (alias export $network "error-code" (type $error-code))
  (alias export $network "ip-address" (type $ip-address))
  (import "wasi:sockets/instance-network@0.2.0" (instance $instance
    (alias outer 1 $net (type $outer-net))
    (export "network" (type $network (eq $outer-net)))
    (export "instance-network" (func (result (own $network))))))
  (import "wasi:sockets/ip-name-lookup@0.2.0" (instance $lookup
    (alias outer 1 $net (type $outer-net))
    (export "network" (type $network (eq $outer-net)))
    (alias outer 1 $error-code (type $outer-code))
    (export "error-code" (type $code (eq $outer-code)))
    (alias outer 1 $ip-address (type $outer-address))
    (export "ip-address" (type $address (eq $outer-address)))
    (alias outer 1 $pollable (type $outer-pollable))
    (export "pollable" (type $pollable (eq $outer-pollable)))
    (export "resolve-address-stream" (type $stream (sub resource)))
    (export "resolve-addresses"
      (func (param "network" (borrow $network)) (param "name" string) (result (result (own $stream) (error $code)))))
    (export "[method]resolve-address-stream.resolve-next-address"
      (func (param "self" (borrow $stream)) (result (result (option $address) (error $code)))))
    (export "[method]resolve-address-stream.subscribe"
      (func (param "self" (borrow $stream)) (result (own $pollable))))))

  (core module $memory
    (memory (export "memory") 1)
    (data (i32.const 64) "web.example"))
  (core instance $memory (instantiate $memory))
  (alias core export $memory "memory" (core memory $mem))

  (core func $block (canon lower (func $poll "[method]pollable.block")))
  (core func $network (canon lower (func $instance "instance-network")))
  (core func $resolve (canon lower (func $lookup "resolve-addresses") (memory $mem)))
  (core func $next (canon lower (func $lookup "[method]resolve-address-stream.resolve-next-address") (memory $mem)))
  (core func $subscribe (canon lower (func $lookup "[method]resolve-address-stream.subscribe")))

  (core module $program
    (import "host" "memory" (memory 1))
    (import "host" "block" (func $block (param i32)))
    (import "host" "network" (func $network (result i32)))
    (import "host" "resolve" (func $resolve (param i32 i32 i32 i32)))
    (import "host" "next" (func $next (param i32 i32)))
    (import "host" "subscribe" (func $subscribe (param i32) (result i32)))
    (func (export "run") (result i32)
      (local $stream i32)
      (call $resolve (call $network) (i32.const 64) (i32.const 11) (i32.const 16))
      (if (i32.load8_u (i32.const 16)) (then (return (i32.const 1))))
      (local.set $stream (i32.load (i32.const 20)))
      (call $block (call $subscribe (local.get $stream)))
      (call $next (local.get $stream) (i32.const 32))
      ;; It worked, there is one, it is of version 4.
      (if (i32.or (i32.load8_u (i32.const 32)) (i32.load8_u (i32.const 36))) (then (return (i32.const 1))))
      (i32.ne (i32.load align=2 (i32.const 38)) (i32.const 0x070200c0))))
  (core instance $program (instantiate $program (with "host" (instance
    (export "memory" (memory $mem)) (export "block" (func $block)) (export "network" (func $network))
    (export "resolve" (func $resolve)) (export "next" (func $next)) (export "subscribe" (func $subscribe))))))
  (func $run (result (result)) (canon lift (core func $program "run")))
  (component $runner
    (import "run" (func $f (result (result))))
    (export "run" (func $f)))
  (instance $runner (instantiate $runner (with "run" (func $run))))
  (export "wasi:cli/run@0.2.0" (instance $runner)))
