import java.math.BigDecimal;
import java.sql.*;
import java.time.*;
import java.util.*;

/** Prints what pgJDBC tells of the schemas that people see, one line per column, and reads one value of each kind. */
public class Catalogue {
    public static void main(String[] args) throws Exception {
        try (Connection db = DriverManager.getConnection(args[0], args[1], args[2])) {
            DatabaseMetaData meta = db.getMetaData();
            for (String schema : List.of("billing", "dw", "mart")) {
                List<String> tables = new ArrayList<>();
                try (ResultSet r = meta.getTables(null, schema, "%", new String[] {"TABLE", "PARTITIONED TABLE", "VIEW", "MATERIALIZED VIEW"})) {
                    while (r.next()) tables.add(r.getString("TABLE_NAME"));
                }
                for (String table : tables) {
                    Set<String> keys = new HashSet<>();
                    try (ResultSet r = meta.getPrimaryKeys(null, schema, table)) {
                        while (r.next()) keys.add(r.getString("COLUMN_NAME"));
                    }
                    try (ResultSet r = meta.getColumns(null, schema, table.replace("_", "\\_"), "%")) {
                        while (r.next()) {
                            String name = r.getString("COLUMN_NAME"), comment = r.getString("REMARKS");
                            System.out.println(schema + "." + table + "." + name + " " + r.getString("TYPE_NAME") + (keys.contains(name) ? " key" : "") + ": " + comment);
                        }
                    }
                    try (ResultSet r = meta.getImportedKeys(null, schema, table)) {
                        while (r.next()) System.out.println("link " + schema + "." + table + "." + r.getString("FKCOLUMN_NAME") + " -> "
                                + r.getString("PKTABLE_SCHEM") + "." + r.getString("PKTABLE_NAME") + "." + r.getString("PKCOLUMN_NAME"));
                    }
                }
            }
            try (Statement s = db.createStatement(); ResultSet r = s.executeQuery(args[3])) {
                r.next();
                BigDecimal quantity = r.getBigDecimal(1);
                System.out.println("value " + quantity.toPlainString() + " " + r.getObject(2, LocalDate.class) + " "
                        + r.getObject(3, OffsetDateTime.class).toInstant() + " " + r.getString(4));
            }
        }
    }
}
